"""What benchmarks/gpu.py runs: stages under budgets, on models and photos that are made there.

gpu.py ──► rig (a process for each group of steps) ──► report (.json and .md)
│
▼  gpu.py --work-through MODULE ──► steps (tells what each step found)
machine                    versions, provider, ceilings
training                   steps beside bare forward and backward
serving ──► load           models alone, and servers under load
check_training, check_serving ──► made (photos, a cache, a run)
check_tests                the tests marked `gpu`
models                     model files, decoding on the device, a server
"""

"""The verbs of the command line that need both training and the service.

Each verb imports what is heavy only when it runs, so that `hansang --help` stays quick.

    pipeline (release, pipeline, demo) ─► flows.pipeline, release_gate, local.demo
    finetune ─► training.finetuning          export ─► training.export, storage.oci
    evaluate ─► local.evaluate
    operations (deploy, up, drift, relabel)
"""

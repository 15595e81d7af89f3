"""How fast it is, and how it bears trouble: each file is a command, and its docstring shows it.

It is a package, so that no installed package of the same name is imported instead.

    learning/                               training, search and review: how fast, and how right
    serving/, scaling, bulk                 serving against its limits and other servers
    trouble/, soak                          restarts, releases, overload, bad images, half an hour
    gpu                                     all of it on a GPU, in one call (gpu_stages/)
    gpu_pack, thin_cuda, gpu_bare.sh, bare/ what a bare GPU machine needs for it
    rig                                     models, photos, servers and calls that all of them use
    http_door, http_load                    the same calls over HTTP, many at little cost
"""

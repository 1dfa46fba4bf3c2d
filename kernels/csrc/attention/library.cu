// What every library of this package answers: the interface it was compiled for, `ABI` of foldase_kernels/loader.py.
extern "C" __attribute__((visibility("default"))) int foldase_kernels_abi() { return 2; }

// Compiles a body for the compiler's default, for AVX2 and for AVX-512, so that one library serves
// every CPU of an architecture; the choice is made at run time.
//
// SSGEAR_BODY names the file, which is included once for each instruction set. There SSGEAR_LEVEL
// names the set, SSGEAR_TARGET enables it for a function, SSGEAR_BYTES is the size of its vectors.

#define SSGEAR_LEVEL baseline
#define SSGEAR_BYTES 16
#define SSGEAR_TARGET
#include SSGEAR_BODY
#undef SSGEAR_LEVEL
#undef SSGEAR_BYTES
#undef SSGEAR_TARGET

#if defined(__x86_64__)
#define SSGEAR_LEVEL avx2
#define SSGEAR_BYTES 32
#define SSGEAR_TARGET __attribute__((target("avx2,fma")))
#include SSGEAR_BODY
#undef SSGEAR_LEVEL
#undef SSGEAR_BYTES
#undef SSGEAR_TARGET

#define SSGEAR_LEVEL avx512
#define SSGEAR_BYTES 64
#define SSGEAR_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx512bw,fma")))
#include SSGEAR_BODY
#undef SSGEAR_LEVEL
#undef SSGEAR_BYTES
#undef SSGEAR_TARGET
#endif

#undef SSGEAR_BODY

/* Fused element-wise work, in vectors of 64 bytes that the compiler maps to what the processor has.
   Called through ctypes with pointers to contiguous rows; see library.py.

   Optional: without a compiler at install time the same is done by tensor operations. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#if !defined(__GNUC__) /* clang defines it too */
#error "wants the vector types of GCC and clang: the tensor operations serve instead"
#endif

#define INTERFACE 6 /* to be raised when a signature changes: see library.py */
#define INLINE static inline __attribute__((always_inline))
#define MAX_STEPS 64
#define CERTAIN_GAP 745.0 /* as in ops/reference.py */
#define JOIN2(a, b) a##b
#define JOIN(a, b) JOIN2(a, b)

#include "tile.inc"

/* One version for each generation of processors, chosen at the call. */
#if defined(__x86_64__) && !defined(__clang__)
#define GENERATIONS 1
#pragma GCC diagnostic ignored "-Wpsabi" /* vectors never pass between functions: all inlined */
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,prefer-vector-width=512")
#define LEVEL _avx512
#define REGISTER 64 /* bytes of a vector register */
#define REGISTERS 32
#include "types.inc"
#undef LEVEL
#undef REGISTER
#undef REGISTERS
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LEVEL _avx2
#define REGISTER 32
#define REGISTERS 16
#include "types.inc"
#undef LEVEL
#undef REGISTER
#undef REGISTERS
#pragma GCC pop_options

static int level(void)
{
    static int found = -1;
    if (found < 0) {
        __builtin_cpu_init();
        int avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
        int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq")
            && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
        found = avx2 + (avx2 && avx512);
    }
    return found;
}
#else
#define GENERATIONS 0
#endif

#define LEVEL _plain
#define REGISTER 16
#define REGISTERS 16
#include "types.inc"
#undef LEVEL
#undef REGISTER
#undef REGISTERS

/* Numbers below the normal range, where x86 takes a hundred times longer, count as 0 inside. */
#if defined(__x86_64__)
#define QUICK_BEGIN \
    unsigned before = __builtin_ia32_stmxcsr(); \
    __builtin_ia32_ldmxcsr(before | 0x8040);
#define QUICK_END __builtin_ia32_ldmxcsr(before);
#else
#define QUICK_BEGIN
#define QUICK_END
#endif

#if GENERATIONS
#define CHOOSE(name, arguments) \
    switch (level()) { \
    case 2: JOIN(name, _avx512) arguments; break; \
    case 1: JOIN(name, _avx2) arguments; break; \
    default: JOIN(name, _plain) arguments; \
    }
#else
#define CHOOSE(name, arguments) JOIN(name, _plain) arguments;
#endif

/* n3_NAME_f32 and n3_NAME_f64, the parameters given with REAL and INTEGER. */
#define EXPORT(name, parameters, arguments) \
    void JOIN(JOIN(n3_, name), TYPE) parameters \
    { \
        QUICK_BEGIN CHOOSE(JOIN(name, TYPE), arguments) QUICK_END \
    }

#define REAL float
#define INTEGER int32_t
#define TYPE _f32
#include "exports.inc"
#undef REAL
#undef INTEGER
#undef TYPE
#define REAL double
#define INTEGER int64_t
#define TYPE _f64
#include "exports.inc"

#include "integers.inc"

int64_t n3match_native_interface(void) { return INTERFACE; }

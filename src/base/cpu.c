#include "base/cpu.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "base/err.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { ARCH_REQ_XCOMP_PERM = 0x1023, XFEATURE_XTILEDATA = 18 };

static bool has(uint32_t reg, uint32_t bits)
{
    return (reg & bits) == bits;
}

/* Register sets that the system saves on a context switch. */
static uint64_t xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static apus_cpu detect(void)
{
    uint32_t a, b, c, d, b7, c7, d7;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !has(c, bit_OSXSAVE | bit_AVX | bit_FMA | bit_F16C))
        return APUS_CPU_REF;
    if (!__get_cpuid_count(7, 0, &a, &b7, &c7, &d7)) return APUS_CPU_REF;
    uint64_t saved = xcr0();
    if ((saved & 0x6) != 0x6 || !has(b7, bit_AVX2 | bit_BMI2)) return APUS_CPU_REF;
#ifdef AP_EMULATE /* tests: kern/cpu/x86/avx512_plain.h, amx_tile.h */
    return APUS_CPU_AMX;
#endif
    if ((saved & 0xE6) != 0xE6 ||
        !has(b7, bit_AVX512F | bit_AVX512BW | bit_AVX512DQ | bit_AVX512VL) ||
        !has(c7, bit_AVX512VNNI))
        return APUS_CPU_AVX2;
    const uint32_t amx = 1u << 24 | 1u << 25 | 1u << 22; /* tile, int8, bf16 */
    if ((saved & 0x60000) != 0x60000 || !has(d7, amx) ||
        syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) != 0)
        return APUS_CPU_AVX512;
    return APUS_CPU_AMX;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

/* bits of Linux's asm/hwcap.h, which older systems lack */
enum { CAP_ASIMDDP = 1 << 20, CAP2_I8MM = 1 << 13 };

static apus_cpu detect(void)
{
    if (!(getauxval(AT_HWCAP) & CAP_ASIMDDP)) return APUS_CPU_NEON; /* part of the architecture */
    return getauxval(AT_HWCAP2) & CAP2_I8MM ? APUS_CPU_I8MM : APUS_CPU_DOT;
}
#else
static apus_cpu detect(void)
{
    return APUS_CPU_REF;
}
#endif

apus_cpu ap_cpu_best(void)
{
    return detect();
}

int ap_cpu_has(apus_cpu level)
{
    if (level == APUS_CPU_AUTO || level == APUS_CPU_REF) return 1;
    apus_cpu best = detect();
    apus_cpu lowest = best >= APUS_CPU_NEON ? APUS_CPU_NEON : APUS_CPU_AVX2;
    return level >= lowest && level <= best;
}

static const char *const names[] = {"auto", "ref", "avx2", "avx512", "amx", "neon", "dot", "i8mm"};
enum { N_NAMES = sizeof names / sizeof *names };

apus_err apus_cpu_parse(const char *name, apus_cpu *out, apus_diag *diag)
{
    if (!name || !out) return ap_fail(diag, APUS_EINVAL, "processor level: no name given");
    for (int i = 0; i < N_NAMES; i++) {
        if (!strcmp(name, names[i])) {
            *out = (apus_cpu)i;
            return APUS_OK;
        }
    }
    return ap_fail(diag, APUS_EINVAL,
                   "processor level: expected auto, ref, avx2, avx512, amx, neon, dot or "
                   "i8mm, found '%.40s'",
                   name);
}

const char *apus_cpu_name(apus_cpu level)
{
    return (unsigned)level < N_NAMES ? names[level] : "unknown";
}

apus_cpu apus_cpu_best(void)
{
    return ap_cpu_best();
}

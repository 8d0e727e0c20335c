/* fuzz.h - what a fuzz target defines. */
#ifndef AP_TESTS_FUZZ_H
#define AP_TESTS_FUZZ_H

#include <stddef.h>
#include <stdint.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif

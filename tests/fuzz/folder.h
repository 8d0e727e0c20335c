/* folder.h - for targets that open models: a folder of their own with files made from the input. */
#ifndef AP_TESTS_FUZZ_FOLDER_H
#define AP_TESTS_FUZZ_FOLDER_H

#include <stdbool.h>
#include <stddef.h>

/* The folder, a temporary one; made by the first call, removed with all files when the process ends. */
const char *folder(void);

/* Write a file of it. */
void folder_write(const char *name, const void *data, size_t n);

/* Write a file of safetensors: the tensors of `list`, lines of "DTYPE SHAPE NAME" such as
 * "BF16 64,32 model.norm.weight". Lines that are none, and what goes beyond 1 MB of data, are left out. */
void folder_write_tensors(const char *name, const char *list, size_t len);

/* For what must hold. */
void require(bool ok);

#endif

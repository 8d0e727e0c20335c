/* st_writer.h - writes small safetensors files for tests. */
#ifndef AP_TESTS_ST_WRITER_H
#define AP_TESTS_ST_WRITER_H

/* Write path: a file of tensors described as "name dtype shape;..." such as
 * "a.weight F32 [2,3];b BF16 []". Their bytes are zero. */
void st_write(const char *path, const char *tensors);

void text_write(const char *path, const char *text);

#endif

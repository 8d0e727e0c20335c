/* Files: round trip, sticky errors, nothing left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/store.h"

static char dir[] = "/tmp/apus-store-XXXXXX";
static char path[64];
static apus_diag diag;

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/file", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    ap_store s;
    float data[1000], back[1000];
    for (int i = 0; i < 1000; i++) data[i] = (float)i / 3;
    assert_int_equal(ap_store_create(&s, path, &diag), APUS_OK);
    ap_store_write_u32(&s, 0x01020304);
    ap_store_sum(&s);
    ap_store_write_u64(&s, 77);
    ap_store_write(&s, data, sizeof data);
    ap_store_write(&s, NULL, 0);
    ap_store_sum(&s);
    assert_int_equal(access(path, F_OK), -1); /* not there before the end */
    assert_int_equal(ap_store_close(&s, 1), APUS_OK);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 4 + 8 + 8 + 4000 + 8);

    assert_int_equal(ap_store_open(&s, path, &diag), APUS_OK);
    assert_int_equal(s.size, st.st_size);
    assert_int_equal(ap_store_read_u32(&s), 0x01020304);
    ap_store_check(&s);
    assert_int_equal(ap_store_read_u64(&s), 77);
    ap_store_read(&s, back, sizeof back);
    ap_store_check(&s);
    assert_int_equal(s.err, APUS_OK);
    assert_memory_equal(data, back, sizeof data);
    assert_int_equal(ap_store_read_u64(&s), 0); /* past the end */
    assert_int_equal(s.err, APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "4028"));
    assert_int_equal(ap_store_close(&s, 0), APUS_EFORMAT);

    /* The first byte as it is on the disk. */
    FILE *f = fopen(path, "r+b");
    assert_int_equal(fgetc(f), 4);
    fseek(f, 100, SEEK_SET);
    fputc(99, f);
    fclose(f);
    assert_int_equal(ap_store_open(&s, path, &diag), APUS_OK);
    ap_store_read_u32(&s);
    ap_store_check(&s);
    assert_int_equal(s.err, APUS_OK);
    ap_store_read_u64(&s);
    ap_store_read(&s, back, sizeof back);
    ap_store_check(&s);
    assert_int_equal(ap_store_close(&s, 0), APUS_EFORMAT);
    assert_non_null(strstr(diag.text, "checksum"));
}

static void dropped_files_leave_nothing(void **state)
{
    (void)state;
    ap_store s;
    unlink(path);
    assert_int_equal(ap_store_create(&s, path, &diag), APUS_OK);
    ap_store_write_u32(&s, 1);
    assert_int_equal(ap_store_close(&s, 0), APUS_OK);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(ap_store_create(&s, path, &diag), APUS_OK);
    s.err = APUS_EINTERNAL;
    ap_store_write_u32(&s, 1);
    assert_int_equal(ap_store_close(&s, 1), APUS_EINTERNAL);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(ap_store_create(&s, "/nonexistent/dir/file", &diag), APUS_EFILE);
    assert_int_equal(ap_store_open(&s, path, &diag), APUS_EFILE);
    assert_non_null(strstr(diag.text, path));
    assert_int_equal(ap_store_open(&s, dir, &diag), APUS_EFILE);
    assert_int_equal(ap_store_open(&s, "/dev/zero", &diag), APUS_EFILE);
}

/* What has the name is replaced only if it is a regular file. */
static void only_regular_files_are_replaced(void **state)
{
    (void)state;
    ap_store s;
    struct stat st;
    char other[80];
    snprintf(other, sizeof other, "%s/other", dir);
    for (int round = 0; round < 2; round++) {
        assert_int_equal(ap_store_create(&s, path, &diag), APUS_OK);
        ap_store_write_u32(&s, 1);
        assert_int_equal(ap_store_close(&s, 1), APUS_OK);
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_mode & 0777, 0600);
    }
    assert_int_equal(symlink(path, other), 0);
    assert_int_equal(ap_store_create(&s, other, &diag), APUS_EFILE);
    assert_non_null(strstr(diag.text, "symbolic link"));
    unlink(other);
    assert_int_equal(mkfifo(other, 0600), 0);
    assert_int_equal(ap_store_create(&s, other, &diag), APUS_EFILE);
    assert_non_null(strstr(diag.text, "pipe"));
    unlink(other);
    assert_int_equal(ap_store_create(&s, "/dev/null", &diag), APUS_EFILE);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(dropped_files_leave_nothing),
        cmocka_unit_test(only_regular_files_are_replaced),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

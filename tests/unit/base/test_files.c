#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"

static char dir[] = "/tmp/apus-test-XXXXXX";
static char path[64];

static int make_dir(void **state)
{
    (void)state;
    if (!mkdtemp(dir)) return -1;
    snprintf(path, sizeof path, "%s/f", dir);
    return 0;
}

static int remove_dir(void **state)
{
    (void)state;
    unlink(path);
    return rmdir(dir);
}

static void write_file(size_t n)
{
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    for (size_t i = 0; i < n; i++) fputc((int)(i * 7 & 255), f);
    fclose(f);
}

static void test_read(void **state)
{
    (void)state;
    static const size_t sizes[] = {0, 1, 4096, 100001};
    for (size_t i = 0; i < 4; i++) {
        char *data = NULL;
        size_t n = 99;
        write_file(sizes[i]);
        assert_int_equal(ap_file_read(path, sizes[i], &data, &n, NULL), APUS_OK);
        assert_int_equal(n, sizes[i]);
        assert_int_equal(data[n], 0);
        for (size_t k = 0; k < n; k++) assert_int_equal((uint8_t)data[k], k * 7 & 255);
        ap_free(data);
        data = NULL;
        if (sizes[i])
            assert_int_equal(ap_file_read(path, sizes[i] - 1, &data, &n, NULL), APUS_EFILE);
        assert_null(data);
    }
}

static void test_errors(void **state)
{
    (void)state;
    apus_diag d;
    char *data;
    size_t n;
    ap_map m;
    assert_int_equal(ap_file_read("/no/such/file", 10, &data, &n, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, "/no/such/file"));
    assert_non_null(strstr(d.text, "No such file"));
    assert_int_equal(ap_file_read(dir, 10, &data, &n, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, "folder"));
    assert_int_equal(ap_map_open(dir, &m, &d), APUS_EFILE);
    assert_int_equal(ap_map_open("/no/such/file", &m, &d), APUS_EFILE);
    assert_int_equal(ap_map_open("/dev/zero", &m, &d), APUS_EFILE);
    assert_int_equal(ap_file_read("/dev/zero", 100000, &data, &n, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, "larger"));
}

/* Opening a named pipe that nobody writes to must not wait. */
static void test_pipe(void **state)
{
    (void)state;
    char fifo[80];
    char *data;
    size_t n;
    ap_map m;
    snprintf(fifo, sizeof fifo, "%s/p", dir);
    assert_int_equal(mkfifo(fifo, 0600), 0);
    assert_int_equal(ap_map_open(fifo, &m, NULL), APUS_EFILE);
    assert_int_equal(ap_file_read(fifo, 10, &data, &n, NULL), APUS_OK);
    assert_int_equal(n, 0);
    ap_free(data);
    unlink(fifo);
    int fd[2]; /* text from a process comes through a pipe's path */
    assert_int_equal(pipe(fd), 0);
    assert_int_equal(write(fd[1], "hello", 5), 5);
    close(fd[1]);
    char name[40];
    snprintf(name, sizeof name, "/dev/fd/%d", fd[0]);
    assert_int_equal(ap_file_read(name, 10, &data, &n, NULL), APUS_OK);
    assert_string_equal(data, "hello");
    ap_free(data);
    close(fd[0]);
}

static void test_map(void **state)
{
    (void)state;
    ap_map m;
    write_file(5000);
    assert_int_equal(ap_map_open(path, &m, NULL), APUS_OK);
    assert_int_equal(m.len, 5000);
    assert_int_equal(m.data[4999], 4999 * 7 & 255);
    uint8_t copy[100];
    apus_diag d;
    assert_true(ap_map_holds(&m, m.data + 4900, 100));
    assert_false(ap_map_holds(&m, m.data + 4901, 100));
    assert_false(ap_map_holds(&m, m.data - 1, 1));
    assert_int_equal(ap_map_read(&m, path, m.data + 4900, 100, copy, &d), APUS_OK);
    assert_memory_equal(copy, m.data + 4900, 100);
    assert_int_equal(truncate(path, 4950), 0);
    assert_int_equal(ap_map_read(&m, path, m.data + 4900, 100, copy, &d), APUS_EFILE);
    assert_non_null(strstr(d.text, path));
    assert_non_null(strstr(d.text, "4950"));
    ap_map_close(&m);
    assert_null(m.data);
    ap_map_close(&m);
    ap_map_close(NULL);
    write_file(0);
    assert_int_equal(ap_map_open(path, &m, NULL), APUS_OK);
    assert_int_equal(m.len, 0);
    assert_non_null(m.data);
    ap_map_close(&m);
}

static void test_paths(void **state)
{
    (void)state;
    static const char *const rows[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}};
    for (int i = 0; i < 4; i++) {
        char *p = ap_path_join(rows[i][0], rows[i][1]);
        assert_string_equal(p, rows[i][2]);
        ap_free(p);
    }
    write_file(1);
    assert_true(ap_path_exists(path) && !ap_path_is_dir(path));
    assert_true(ap_path_exists(dir) && ap_path_is_dir(dir));
    assert_false(ap_path_exists("/no/such") || ap_path_is_dir("/no/such"));
    int64_t t = ap_time_us();
    usleep(2000);
    assert_true(ap_time_us() - t >= 2000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_read), cmocka_unit_test(test_errors), cmocka_unit_test(test_pipe),
        cmocka_unit_test(test_map),  cmocka_unit_test(test_paths),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}

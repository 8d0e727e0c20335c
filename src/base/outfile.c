/* outfile.c - one staged file for callers outside (apus_unstable.h). */
#include "apus/apus_unstable.h"

#include "base/mem.h"
#include "base/output.h"
#include "base/stage.h"

struct apus_output {
    ap_stage stage;
    ap_output file;
};

apus_err apus_output_create(const char *path, bool force, apus_output **out, apus_diag *diag)
{
    if (!path || !out)
        return ap_fail(diag, APUS_EINVAL, "apus_output_create: path and out are needed");
    apus_output *o = ap_calloc(1, sizeof *o);
    if (!o) return ap_fail_nomem(diag, sizeof *o, "a file writer");
    apus_err err = ap_stage_begin(&o->stage, path, AP_STAGE_FILE, force, diag);
    if (!err) err = ap_output_create(&o->file, o->stage.out, 0666, diag);
    if (err) {
        ap_stage_rephrase(&o->stage, diag);
        ap_stage_drop(&o->stage);
        ap_free(o);
        return err;
    }
    *out = o;
    return APUS_OK;
}

apus_err apus_output_apart(const char *path, const char *source, apus_diag *diag)
{
    if (!path || !source)
        return ap_fail(diag, APUS_EINVAL, "apus_output_apart: path and source are needed");
    return ap_stage_apart(path, source, diag);
}

apus_err apus_output_put(apus_output *o, uint64_t at, const void *data, size_t n, apus_diag *diag)
{
    if (!o || (!data && n))
        return ap_fail(diag, APUS_EINVAL, "apus_output_put: a file and data are needed");
    apus_err err = ap_output_put(&o->file, at, data, n, diag);
    if (err) ap_stage_rephrase(&o->stage, diag);
    return err;
}

apus_err apus_output_finish(apus_output *o, apus_diag *diag)
{
    if (!o) return ap_fail(diag, APUS_EINVAL, "apus_output_finish: a file is needed");
    apus_err err = ap_output_close(&o->file, true, diag);
    if (err)
        ap_stage_rephrase(&o->stage, diag);
    else
        err = ap_stage_finish(&o->stage, diag);
    ap_stage_drop(&o->stage);
    ap_free(o);
    return err;
}

void apus_output_drop(apus_output *o)
{
    if (!o) return;
    ap_output_close(&o->file, false, NULL);
    ap_stage_drop(&o->stage);
    ap_free(o);
}

void apus_outputs_remove(void)
{
    ap_stages_remove();
}

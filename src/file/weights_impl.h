/* weights_impl.h - inside a model's weights: for the files that open, join and read them. */
#ifndef AP_FILE_WEIGHTS_IMPL_H
#define AP_FILE_WEIGHTS_IMPL_H

#include "base/arena.h"
#include "file/names.h"
#include "file/safetensors.h"
#include "file/weights.h"

typedef struct ap_shard {
    char *path;
    const char *name; /* tail of path */
    ap_safetensors st;
    ap_gguf gguf;
    bool beside; /* not one of the model's: it may have the draft head */
} ap_shard;

struct ap_weights {
    char *dir;
    ap_shard *shard;
    size_t n_shards, cap_shards;
    struct item {
        const char *name;
        size_t name_len;
        ap_tensor tensor;
        size_t shard;
    } * item; /* all tensors, shard by shard in the order of their bytes */
    size_t n;
    const ap_gguf **gguf; /* of the shards; NULL for safetensors */
    ap_arena arena;       /* Hugging Face names of GGUF tensors */
    ap_weights_traits traits;
    ap_names names;  /* tensor name -> item */
    char *prefix;    /* of the text model, or NULL */
    ap_names absent; /* tensors that the index names and no file holds -> their shard's name */
};

/* Note a file of the folder; it is opened later. */
apus_err ap_weights_add_shard(ap_weights *w, const char *name, apus_diag *diag);
/* Room in w->item was made for it. */
apus_err ap_weights_add_item(ap_weights *w, const char *name, size_t len, const ap_tensor *t,
                             size_t in, apus_diag *diag);
/* After the last item. EFORMAT: a name appears twice. */
apus_err ap_weights_index(ap_weights *w, apus_diag *diag);
/* The prefix of the text model's names, into w->prefix. */
apus_err ap_weights_find_prefix(ap_weights *w, apus_diag *diag);

enum { AP_MAX_SHARDS = 10000 };

/* weights_index.c. w is the caller's; names and arena are freed by the caller, however reading ends. */
typedef struct ap_index_reader {
    ap_weights *w;
    const char *file;
    apus_diag *diag;
    ap_arena arena;
    ap_names tensors; /* value: its shard's name, in the arena */
    ap_names shards;  /* may repeat */
    const char *last_shard;
    const char *first_absent; /* a shard that is not there */
    const char *tensor;
    size_t tensor_len;
    bool in_map, seen_map; /* inside "weight_map" */
    bool map_next;         /* the value of "weight_map" comes next */
} ap_index_reader;

/* Notes the files of w that the index names and that are here. EFILE, EFORMAT, ENOMEM. */
apus_err ap_weights_read_index(ap_index_reader *x, const char *path);
/* With w's tensors known: note what the index names and no file holds; ap_weights_check knows whether the
 * model needs it. Tensors that the index does not name are kept, as transformers does: it reads whole files. */
apus_err ap_weights_note_absent(ap_index_reader *x);

#endif

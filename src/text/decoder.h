/* decoder.h - token texts joined to text: the "decoder" of a tokenizer file as a chain of stages
 * that tokens are pushed through one by one. Whole and streaming decoding are the same thing.
 *
 * Each stage maps a list of tokens to a list of tokens. After ByteLevel or Fuse the list is one
 * token, which flows in pieces of whole characters. */
#ifndef AP_TEXT_DECODER_H
#define AP_TEXT_DECODER_H

#include "base/json.h"

#define AP_DECODER_MAX 16

typedef struct ap_decoder {
    struct ap_decoder_stage {
        enum {
            AP_DEC_JOIN, /* no decoder: tokens with spaces between them */
            AP_DEC_REPLACE,
            AP_DEC_BYTE_FALLBACK,
            AP_DEC_FUSE,
            AP_DEC_BYTES, /* ByteLevel */
            AP_DEC_STRIP,
            AP_DEC_METASPACE
        } kind;
        bool flows; /* its input is one token in pieces */
        char *what; /* REPLACE: text to find; STRIP, METASPACE: one character */
        size_t what_len;
        char *with; /* REPLACE: instead */
        size_t with_len;
        size_t start, stop; /* STRIP: at most so many characters from either end */
        bool skip_first;    /* METASPACE: in the first token the character goes away */
    } stages[AP_DECODER_MAX];
    int n;
} ap_decoder;

/* Read the "decoder" of a tokenizer file; NULL or JSON null joins with spaces.
 * ByteLevel, Replace (String), ByteFallback, Fuse, Strip, Metaspace, Sequence.
 * Returns OK; EFORMAT; EUNSUPPORTED by component; ENOMEM. */
apus_err ap_decoder_parse(const ap_json *j, const char *name, ap_decoder *out, apus_diag *diag);
void ap_decoder_free(ap_decoder *d);

/* State of one decoding; all zero to begin with. */
typedef struct ap_decoding {
    struct ap_decoding_stage {
        ap_buf held;    /* BYTE_FALLBACK: the run of bytes; BYTES: an unfinished character */
        ap_buf made;    /* what the stage hands on */
        size_t skipped; /* STRIP, flowing: characters dropped at the start */
        size_t pending; /* STRIP, flowing: characters kept back that may be the end */
        bool begun;     /* something has passed */
    } stages[AP_DECODER_MAX];
    ap_buf out; /* whole characters that are certain; the caller takes and empties it */
} ap_decoding;
void ap_decoding_free(ap_decoding *s);

/* Push a token's text, or end the list. false: memory is out. */
bool ap_decoding_push(const ap_decoder *d, ap_decoding *s, const char *token, size_t n);
bool ap_decoding_end(const ap_decoder *d, ap_decoding *s);

/* Append the bytes that a token stands for anywhere but at the beginning of a text; they may be a part of a
 * character. false: it has none of its own, for what comes of it depends on its neighbours. */
bool ap_decoder_bytes(const ap_decoder *d, const char *token, size_t n, ap_buf *out);

#endif

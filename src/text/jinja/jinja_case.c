/* jinja_case.c - upper, lower and title case of whole strings and what str.is...() asks. */
#include <string.h>
#include <utf8proc.h>

#include "base/utf8.h"
#include "text/jinja/jinja.h"

/* Characters that become several. Source: Unicode's SpecialCasing.txt, unconditional mappings. */
static const struct special {
    uint16_t cp, upper[3], title[3];
} specials[] = {
    {0x00DF, {0x0053, 0x0053}, {0x0053, 0x0073}},
    {0x0149, {0x02BC, 0x004E}, {0x02BC, 0x004E}},
    {0x01F0, {0x004A, 0x030C}, {0x004A, 0x030C}},
    {0x0390, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x03B0, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x0587, {0x0535, 0x0552}, {0x0535, 0x0582}},
    {0x1E96, {0x0048, 0x0331}, {0x0048, 0x0331}},
    {0x1E97, {0x0054, 0x0308}, {0x0054, 0x0308}},
    {0x1E98, {0x0057, 0x030A}, {0x0057, 0x030A}},
    {0x1E99, {0x0059, 0x030A}, {0x0059, 0x030A}},
    {0x1E9A, {0x0041, 0x02BE}, {0x0041, 0x02BE}},
    {0x1F50, {0x03A5, 0x0313}, {0x03A5, 0x0313}},
    {0x1F52, {0x03A5, 0x0313, 0x0300}, {0x03A5, 0x0313, 0x0300}},
    {0x1F54, {0x03A5, 0x0313, 0x0301}, {0x03A5, 0x0313, 0x0301}},
    {0x1F56, {0x03A5, 0x0313, 0x0342}, {0x03A5, 0x0313, 0x0342}},
    {0x1F80, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F81, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F82, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F83, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F84, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F85, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F86, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F87, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F88, {0x1F08, 0x0399}, {0x1F88}},
    {0x1F89, {0x1F09, 0x0399}, {0x1F89}},
    {0x1F8A, {0x1F0A, 0x0399}, {0x1F8A}},
    {0x1F8B, {0x1F0B, 0x0399}, {0x1F8B}},
    {0x1F8C, {0x1F0C, 0x0399}, {0x1F8C}},
    {0x1F8D, {0x1F0D, 0x0399}, {0x1F8D}},
    {0x1F8E, {0x1F0E, 0x0399}, {0x1F8E}},
    {0x1F8F, {0x1F0F, 0x0399}, {0x1F8F}},
    {0x1F90, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F91, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F92, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F93, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F94, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F95, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F96, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F97, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1F98, {0x1F28, 0x0399}, {0x1F98}},
    {0x1F99, {0x1F29, 0x0399}, {0x1F99}},
    {0x1F9A, {0x1F2A, 0x0399}, {0x1F9A}},
    {0x1F9B, {0x1F2B, 0x0399}, {0x1F9B}},
    {0x1F9C, {0x1F2C, 0x0399}, {0x1F9C}},
    {0x1F9D, {0x1F2D, 0x0399}, {0x1F9D}},
    {0x1F9E, {0x1F2E, 0x0399}, {0x1F9E}},
    {0x1F9F, {0x1F2F, 0x0399}, {0x1F9F}},
    {0x1FA0, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA1, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FA2, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FA3, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FA4, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FA5, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FA6, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FA7, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FA8, {0x1F68, 0x0399}, {0x1FA8}},
    {0x1FA9, {0x1F69, 0x0399}, {0x1FA9}},
    {0x1FAA, {0x1F6A, 0x0399}, {0x1FAA}},
    {0x1FAB, {0x1F6B, 0x0399}, {0x1FAB}},
    {0x1FAC, {0x1F6C, 0x0399}, {0x1FAC}},
    {0x1FAD, {0x1F6D, 0x0399}, {0x1FAD}},
    {0x1FAE, {0x1F6E, 0x0399}, {0x1FAE}},
    {0x1FAF, {0x1F6F, 0x0399}, {0x1FAF}},
    {0x1FB2, {0x1FBA, 0x0399}, {0x1FBA, 0x0345}},
    {0x1FB3, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FB4, {0x0386, 0x0399}, {0x0386, 0x0345}},
    {0x1FB6, {0x0391, 0x0342}, {0x0391, 0x0342}},
    {0x1FB7, {0x0391, 0x0342, 0x0399}, {0x0391, 0x0342, 0x0345}},
    {0x1FBC, {0x0391, 0x0399}, {0x1FBC}},
    {0x1FC2, {0x1FCA, 0x0399}, {0x1FCA, 0x0345}},
    {0x1FC3, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FC4, {0x0389, 0x0399}, {0x0389, 0x0345}},
    {0x1FC6, {0x0397, 0x0342}, {0x0397, 0x0342}},
    {0x1FC7, {0x0397, 0x0342, 0x0399}, {0x0397, 0x0342, 0x0345}},
    {0x1FCC, {0x0397, 0x0399}, {0x1FCC}},
    {0x1FD2, {0x0399, 0x0308, 0x0300}, {0x0399, 0x0308, 0x0300}},
    {0x1FD3, {0x0399, 0x0308, 0x0301}, {0x0399, 0x0308, 0x0301}},
    {0x1FD6, {0x0399, 0x0342}, {0x0399, 0x0342}},
    {0x1FD7, {0x0399, 0x0308, 0x0342}, {0x0399, 0x0308, 0x0342}},
    {0x1FE2, {0x03A5, 0x0308, 0x0300}, {0x03A5, 0x0308, 0x0300}},
    {0x1FE3, {0x03A5, 0x0308, 0x0301}, {0x03A5, 0x0308, 0x0301}},
    {0x1FE4, {0x03A1, 0x0313}, {0x03A1, 0x0313}},
    {0x1FE6, {0x03A5, 0x0342}, {0x03A5, 0x0342}},
    {0x1FE7, {0x03A5, 0x0308, 0x0342}, {0x03A5, 0x0308, 0x0342}},
    {0x1FF2, {0x1FFA, 0x0399}, {0x1FFA, 0x0345}},
    {0x1FF3, {0x03A9, 0x0399}, {0x1FFC}},
    {0x1FF4, {0x038F, 0x0399}, {0x038F, 0x0345}},
    {0x1FF6, {0x03A9, 0x0342}, {0x03A9, 0x0342}},
    {0x1FF7, {0x03A9, 0x0342, 0x0399}, {0x03A9, 0x0342, 0x0345}},
    {0x1FFC, {0x03A9, 0x0399}, {0x1FFC}},
    {0xFB00, {0x0046, 0x0046}, {0x0046, 0x0066}},
    {0xFB01, {0x0046, 0x0049}, {0x0046, 0x0069}},
    {0xFB02, {0x0046, 0x004C}, {0x0046, 0x006C}},
    {0xFB03, {0x0046, 0x0046, 0x0049}, {0x0046, 0x0066, 0x0069}},
    {0xFB04, {0x0046, 0x0046, 0x004C}, {0x0046, 0x0066, 0x006C}},
    {0xFB05, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB06, {0x0053, 0x0054}, {0x0053, 0x0074}},
    {0xFB13, {0x0544, 0x0546}, {0x0544, 0x0576}},
    {0xFB14, {0x0544, 0x0535}, {0x0544, 0x0565}},
    {0xFB15, {0x0544, 0x053B}, {0x0544, 0x056B}},
    {0xFB16, {0x054E, 0x0546}, {0x054E, 0x0576}},
    {0xFB17, {0x0544, 0x053D}, {0x0544, 0x056D}},
};

int ap_j_special_case(uint32_t cp, int how, uint32_t out[3])
{
    for (size_t lo = 0, hi = sizeof specials / sizeof *specials; lo < hi;) {
        size_t mid = (lo + hi) / 2;
        if (specials[mid].cp < cp) {
            lo = mid + 1;
        } else if (specials[mid].cp > cp) {
            hi = mid;
        } else {
            const uint16_t *m = how == AP_J_UPPER ? specials[mid].upper : specials[mid].title;
            int n = 0;
            for (; n < 3 && m[n]; n++) out[n] = m[n];
            return n;
        }
    }
    return 0;
}

static utf8proc_category_t category(uint32_t cp)
{
    return utf8proc_category((utf8proc_int32_t)cp);
}

static bool is_lower(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LL || cp == 0xAA || cp == 0xBA ||
           (cp >= 0x2B0 && cp <= 0x2B8) || (cp >= 0x2170 && cp <= 0x217F) ||
           (cp >= 0x24D0 && cp <= 0x24E9);
}

static bool is_upper(uint32_t cp)
{
    return category(cp) == UTF8PROC_CATEGORY_LU || (cp >= 0x2160 && cp <= 0x216F) ||
           (cp >= 0x24B6 && cp <= 0x24CF);
}

static bool is_cased(uint32_t cp)
{
    return is_lower(cp) || is_upper(cp) || category(cp) == UTF8PROC_CATEGORY_LT;
}

static bool is_alpha(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c >= UTF8PROC_CATEGORY_LU && c <= UTF8PROC_CATEGORY_LO;
}

static bool is_numeric(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_ND || c == UTF8PROC_CATEGORY_NL || c == UTF8PROC_CATEGORY_NO;
}

bool ap_j_is_word(uint32_t cp)
{
    if (cp < 0x80)
        return cp == '_' || (cp >= '0' && cp <= '9') || ((cp | 0x20) >= 'a' && (cp | 0x20) <= 'z');
    utf8proc_category_t c = category(cp);
    return is_alpha(cp) || is_numeric(cp) || c == UTF8PROC_CATEGORY_MN ||
           c == UTF8PROC_CATEGORY_MC || c == UTF8PROC_CATEGORY_PC;
}

/* Unicode's Case_Ignorable, near enough for the final sigma. */
static bool ignorable(uint32_t cp)
{
    utf8proc_category_t c = category(cp);
    return c == UTF8PROC_CATEGORY_MN || c == UTF8PROC_CATEGORY_ME || c == UTF8PROC_CATEGORY_CF ||
           c == UTF8PROC_CATEGORY_LM || c == UTF8PROC_CATEGORY_SK || cp == '\'' || cp == '.' ||
           cp == ':' || cp == 0xB7 || cp == 0x2018 || cp == 0x2019 || cp == 0x2024 || cp == 0x2027;
}

/* A capital sigma at the end of a word becomes the final form. */
static bool final_sigma(const ap_jstr *s, size_t at)
{
    size_t i = at, n;
    bool before = false;
    while (i > 0 && at - i < 256) {
        do i--;
        while (i > 0 && ((uint8_t)s->s[i] & 0xC0) == 0x80);
        uint32_t cp = ap_j_cp_at(s, i, &n);
        if (ignorable(cp)) continue;
        before = is_cased(cp);
        break;
    }
    if (!before) return false;
    for (i = at + 2; i < s->len && i - at < 256; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        if (!ignorable(cp)) return !is_cased(cp);
    }
    return true;
}

static void put_lower(ap_jrun *run, ap_jout *o, const ap_jstr *s, size_t at, uint32_t cp)
{
    if (cp == 0x130)
        ap_j_puts(run, o, "i\xCC\x87");
    else if (cp == 0x3A3)
        ap_j_put_cp(run, o, final_sigma(s, at) ? 0x3C2 : 0x3C3);
    else
        ap_j_put_cp(run, o, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
}

static void put_mapped(ap_jrun *run, ap_jout *o, uint32_t cp, int how)
{
    uint32_t m[3];
    int n = ap_j_special_case(cp, how, m);
    if (!n) {
        n = 1;
        m[0] = (uint32_t)(how == AP_J_UPPER ? utf8proc_toupper((utf8proc_int32_t)cp)
                                            : utf8proc_totitle((utf8proc_int32_t)cp));
    }
    for (int i = 0; i < n; i++) ap_j_put_cp(run, o, m[i]);
}

const ap_jstr *ap_j_case(ap_jrun *run, const ap_jstr *s, int how)
{
    ap_jout o = {0};
    size_t n;
    bool inside = false;                   /* behind a cased character */
    ap_j_spend(run, 4 * (uint64_t)s->len); /* a character takes as long as four steps */
    for (size_t i = 0; i < s->len && !run->failed; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        int what = how;
        if (how == AP_J_CAPITALIZE)
            what = i == 0 ? AP_J_TITLE : AP_J_LOWER;
        else if (how == AP_J_TITLE)
            what = inside ? AP_J_LOWER : AP_J_TITLE;
        else if (how == AP_J_SWAPCASE)
            what = is_upper(cp) ? AP_J_LOWER : is_lower(cp) ? AP_J_UPPER : -1;
        inside = is_cased(cp);
        if (what == AP_J_CASEFOLD && cp == 0xDF)
            ap_j_puts(run, &o, "ss");
        else if (what == AP_J_CASEFOLD && cp == 0x3C2)
            ap_j_put_cp(run, &o, 0x3C3);
        else if (what == AP_J_LOWER)
            put_lower(run, &o, s, i, cp);
        else if (what == AP_J_CASEFOLD)
            ap_j_put_cp(run, &o, (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp));
        else if (what < 0)
            ap_j_put(run, &o, s->s + i, n);
        else
            put_mapped(run, &o, cp, what);
    }
    return ap_j_take(run, &o);
}

static bool one_class(uint32_t cp, const char *what)
{
    if (!strcmp(what, "alpha")) return is_alpha(cp);
    if (!strcmp(what, "alnum")) return is_alpha(cp) || is_numeric(cp);
    if (!strcmp(what, "decimal")) return category(cp) == UTF8PROC_CATEGORY_ND;
    if (!strcmp(what, "digit"))
        return category(cp) == UTF8PROC_CATEGORY_ND || cp == 0xB2 || cp == 0xB3 || cp == 0xB9 ||
               cp == 0x2070 || (cp >= 0x2074 && cp <= 0x2079) || (cp >= 0x2080 && cp <= 0x2089);
    if (!strcmp(what, "numeric")) return is_numeric(cp);
    if (!strcmp(what, "space")) return ap_j_is_space(cp);
    return false;
}

bool ap_j_str_class(const ap_jstr *s, const char *what)
{
    bool lower = !strcmp(what, "lower"), upper = !strcmp(what, "upper");
    bool title = !strcmp(what, "title"), seen = false, inside = false;
    size_t n;
    if (!strcmp(what, "ascii")) return s->n_cp == s->len && ap_utf8_valid(s->s, s->len);
    if (!strcmp(what, "identifier")) {
        for (size_t i = 0; i < s->len; i += n) {
            uint32_t cp = ap_j_cp_at(s, i, &n);
            if (!ap_j_is_word(cp) || (i == 0 && category(cp) == UTF8PROC_CATEGORY_ND)) return false;
        }
        return s->len > 0;
    }
    if (!lower && !upper && !title && s->len == 0) return false;
    for (size_t i = 0; i < s->len; i += n) {
        uint32_t cp = ap_j_cp_at(s, i, &n);
        bool cased = is_cased(cp);
        if (lower && cased && !is_lower(cp)) return false;
        if (upper && cased && !is_upper(cp)) return false;
        if (title && cased && is_lower(cp) != inside) return false;
        if (!lower && !upper && !title && !one_class(cp, what)) return false;
        inside = cased;
        seen |= cased;
    }
    return seen || (!lower && !upper && !title);
}

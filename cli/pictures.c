#include "pictures.h"

#include "report.h"

int pictures_open(const command *c, const apus_model *m, const string_list *names, pictures *out)
{
    apus_diag d;
    *out = (pictures){0};
    for (int i = 0; i < names->n; i++, out->n++)
        if (apus_media_open(m, names->item[i], NULL, &out->item[i], &d)) return report(c, &d);
    return -1;
}

void pictures_free(pictures *p)
{
    for (int i = 0; i < p->n; i++) apus_media_free(p->item[i]);
    p->n = 0;
}

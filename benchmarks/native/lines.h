/* Cuts a stream into lines, however it comes. */
#include <stdlib.h>
#include <string.h>

struct lines {
    char *partial; /* a line that is not whole yet */
    size_t length, room;
};

static void keep_partial(struct lines *lines, const char *data, size_t length)
{
    if (lines->length + length > lines->room) {
        lines->room = 2 * (lines->length + length);
        lines->partial = realloc(lines->partial, lines->room);
        if (!lines->partial)
            abort();
    }
    memcpy(lines->partial + lines->length, data, length);
    lines->length += length;
}

/* Take what has come, and return the next whole line without its end, or NULL when more must come first.
 * `data` and `length` are moved on; the line is good until the next call. */
static const char *next_line(struct lines *lines, const char **data, size_t *length, size_t *line_length)
{
    const char *line = *data, *newline = *length ? memchr(line, '\n', *length) : NULL;
    size_t taken = newline ? (size_t)(newline - line) + 1 : *length;
    *data += taken;
    *length -= taken;
    if (!newline || lines->length) {
        keep_partial(lines, line, taken);
        if (!newline)
            return NULL;
        line = lines->partial;
        taken = lines->length;
        lines->length = 0;
    }
    *line_length = taken - 1;
    return line;
}

static int begins(const char *text, size_t length, const char *with)
{
    size_t wanted = strlen(with);
    return length >= wanted && memcmp(text, with, wanted) == 0;
}

static int ends(const char *text, size_t length, const char *with)
{
    size_t wanted = strlen(with);
    return length >= wanted && memcmp(text + length - wanted, with, wanted) == 0;
}

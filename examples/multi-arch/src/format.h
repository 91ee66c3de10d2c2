#ifndef FORMAT_H
#define FORMAT_H

/* Write a number of bytes in words: "512 bytes", "8 KiB". Returns `text`. */
char *format_size(char *text, unsigned capacity, unsigned long bytes);

#endif

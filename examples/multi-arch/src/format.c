#include "format.h"

#include <stdio.h>

char *format_size(char *text, unsigned capacity, unsigned long bytes) {
  static const char *const units[] = {"bytes", "KiB", "MiB", "GiB"};
  unsigned unit = 0;

  while (bytes >= 1024 && bytes % 1024 == 0 && unit < 3) {
    bytes /= 1024;
    unit++;
  }
  snprintf(text, capacity, "%lu %s", bytes, units[unit]);
  return text;
}

/* One line about where this program runs, and what it was compiled for. */
#include <stdio.h>
#include <sys/utsname.h>

#include "format.h"

int main(void) {
  struct utsname host;
  char pointer[32];

  if (uname(&host) != 0) {
    perror("uname");
    return 1;
  }
  printf("compiled for %s, running on %s, pointers of %s\n", PLATFORM, host.machine,
         format_size(pointer, sizeof pointer, sizeof(void *)));
  return 0;
}

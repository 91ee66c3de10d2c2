/* Greets whoever it is told to; `hello --check` is the image's health check. */
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

static const char greeting_path[] = "/etc/hello/greeting";

static int read_greeting(char *line, int size) {
  FILE *file = fopen(greeting_path, "r");
  if (file == NULL || fgets(line, size, file) == NULL) {
    if (file != NULL) fclose(file);
    perror(greeting_path);
    return -1;
  }
  fclose(file);
  line[strcspn(line, "\n")] = '\0';
  return 0;
}

int main(int argc, char **argv) {
  char line[128];
  struct utsname host;

  if (read_greeting(line, sizeof line) != 0) return 1;
  if (argc > 1 && strcmp(argv[1], "--check") == 0) {
    puts("healthy");
    return 0;
  }
  if (uname(&host) != 0) {
    perror("uname");
    return 1;
  }
  printf("%s, %s!\n", line, argc > 1 ? argv[1] : "world");
  printf("user %d on %s %s\n", (int)getuid(), host.sysname, host.machine);
  return 0;
}

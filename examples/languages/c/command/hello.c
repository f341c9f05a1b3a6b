// Greets whom its first argument names, then prints the file that its second argument names.
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: %s NAME FILE\n", argv[0]);
    return 2;
  }
  const char *greeting = getenv("GREETING");
  printf("%s %s, from C\n", greeting ? greeting : "Hello", argv[1]);

  FILE *file = fopen(argv[2], "r");
  if (!file) {
    fprintf(stderr, "open %s: %s\n", argv[2], strerror(errno));
    return 1;
  }
  char buffer[4096];
  size_t length;
  while ((length = fread(buffer, 1, sizeof buffer, file)) > 0)
    fwrite(buffer, 1, length, stdout);
  return ferror(file) ? 1 : 0;
}

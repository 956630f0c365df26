/* A library to preload: it kills the process at its N-th durable event below a folder.
 *
 * Durable events are what a crash can come before, after or into: a write into a file, also by HDF5
 * and SQLite, an fsync, a rename, a hard link, a file that is removed, a folder that is made. Of a
 * write, half of the bytes still reach the file. Events are counted over all threads of the process
 * that was started, not in those that it starts.
 *
 * KILL_AT_EVENT    N; 0 kills never, and prints the number of events to standard error at the end
 * KILL_AT_FOLDER   the folder's absolute path
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_long count;
static long last = -1; /* -1: not asked to do anything */
static pid_t process;
static char folder[4096];

__attribute__((constructor)) static void begin(void) {
  const char *number = getenv("KILL_AT_EVENT"), *path = getenv("KILL_AT_FOLDER");
  if (!number || !path) return;
  last = atol(number);
  process = getpid();
  snprintf(folder, sizeof folder, "%s", path);
  unsetenv("KILL_AT_EVENT"); /* processes that this one starts are left alone */
}

__attribute__((destructor)) static void end(void) {
  if (last == 0 && getpid() == process) dprintf(2, "events %ld\n", atomic_load(&count));
}

static int below(const char *path) {
  return path && (path[0] != '/' || strncmp(path, folder, strlen(folder)) == 0);
}

static int opened_below(int descriptor) {
  struct stat found;
  char link[64], path[4096];
  if (fstat(descriptor, &found) != 0 || !S_ISREG(found.st_mode)) return 0;
  snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
  ssize_t length = readlink(link, path, sizeof path - 1);
  if (length <= 0) return 0;
  path[length] = 0;
  return below(path);
}

/* Count an event; return whether it is the last one. */
static int is_last(int counts) {
  if (last < 0 || !counts || getpid() != process) return 0;
  return atomic_fetch_add(&count, 1) + 1 == last;
}

static void die(void) {
  kill(getpid(), SIGKILL);
  pause();
}

/* Define a call that is counted before it is made. */
#define COUNTED(name, counts, declared, given)               \
  int name declared {                                        \
    static int(*real) declared;                              \
    if (!real) real = (int(*) declared)dlsym(RTLD_NEXT, #name); \
    if (is_last(counts)) die();                              \
    return real given;                                       \
  }

/* Define a write: the last one writes half of its bytes. */
#define COUNTED_WRITE(name, declared, half, given)                  \
  ssize_t name declared {                                           \
    static ssize_t(*real) declared;                                 \
    if (!real) real = (ssize_t(*) declared)dlsym(RTLD_NEXT, #name); \
    if (last >= 0 && is_last(opened_below(file))) {                 \
      real half;                                                    \
      die();                                                        \
    }                                                               \
    return real given;                                              \
  }

COUNTED_WRITE(write, (int file, const void *data, size_t size), (file, data, size / 2),
              (file, data, size))
COUNTED_WRITE(pwrite, (int file, const void *data, size_t size, off_t at),
              (file, data, size / 2, at), (file, data, size, at))
COUNTED_WRITE(pwrite64, (int file, const void *data, size_t size, off64_t at),
              (file, data, size / 2, at), (file, data, size, at))
COUNTED_WRITE(writev, (int file, const struct iovec *parts, int number),
              (file, parts, number / 2), (file, parts, number))
COUNTED(fsync, opened_below(file), (int file), (file))
COUNTED(fdatasync, opened_below(file), (int file), (file))
COUNTED(ftruncate, opened_below(file), (int file, off_t size), (file, size))
COUNTED(ftruncate64, opened_below(file), (int file, off64_t size), (file, size))
COUNTED(rename, below(to), (const char *from, const char *to), (from, to))
COUNTED(renameat, below(to), (int a, const char *from, int b, const char *to), (a, from, b, to))
COUNTED(link, below(to), (const char *from, const char *to), (from, to))
COUNTED(linkat, below(to), (int a, const char *from, int b, const char *to, int flags),
        (a, from, b, to, flags))
COUNTED(unlink, below(path), (const char *path), (path))
COUNTED(unlinkat, below(path), (int at, const char *path, int flags), (at, path, flags))
COUNTED(rmdir, below(path), (const char *path), (path))
COUNTED(mkdir, below(path), (const char *path, mode_t mode), (path, mode))
COUNTED(mkdirat, below(path), (int at, const char *path, mode_t mode), (at, path, mode))

/* Stands between a server and the kernel (LD_PRELOAD): a disk that loses what was not synced, is full, read-only or slow, and clocks that
 * jump. What it does is told by the numbers in the file FIRE_CONTROL, which the test changes while the server runs.
 *
 * Of files *.wal a write is kept back until it is synced: `kill -9` then loses what a power failure would. Pieces of it, a sector each,
 * may reach the file before (`torn`), as a kernel may write them whenever it likes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

struct control {
	int64_t real_ns;  /* added to the clock of the day */
	int64_t mono_ns;  /* added to the clock that only goes forward */
	int64_t lose;     /* 1: what is not synced is lost with the process */
	int64_t torn;     /* percent of the sectors that reach the file before they are synced */
	int64_t slow_us;  /* a sync takes so much longer, at most */
	int64_t error;    /* errno of every write and sync below the directory FIRE_DIR; 0: none */
};

static volatile struct control *control;
static const char *dir;
static size_t dir_len;
static long (*real_syscall)(long, ...);
static ssize_t (*real_pwrite)(int, const void *, size_t, off64_t);
static ssize_t (*real_write)(int, const void *, size_t);
static int (*real_fsync)(int), (*real_fdatasync)(int);
static uint64_t chance_state;

static void begin(void)
{
	static struct control none;
	if (control)
		return;
	real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	real_pwrite = (ssize_t(*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
	real_write = (ssize_t(*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
	real_fsync = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
	real_fdatasync = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
	const char *path = getenv("FIRE_CONTROL");
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	void *map = fd < 0 ? MAP_FAILED : mmap(NULL, sizeof none, PROT_READ, MAP_SHARED, fd, 0);
	if (fd >= 0)
		close(fd);
	dir = getenv("FIRE_DIR");
	dir_len = dir ? strlen(dir) : 0;
	chance_state = 0x9E3779B97F4A7C15ull ^ (uint64_t)getpid() << 20;
	control = map == MAP_FAILED ? &none : map;
}

__attribute__((constructor)) static void start(void) { begin(); }

static uint64_t chance(void)
{
	uint64_t x = chance_state;
	x ^= x << 13, x ^= x >> 7, x ^= x << 17;
	return chance_state = x;
}

/* Whether the file is below FIRE_DIR, and whether it is of the log. */
static int ours(int fd, int *wal)
{
	char link[32], path[4096];
	if (!dir_len)
		return 0;
	snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
	ssize_t len = readlink(link, path, sizeof path - 1);
	if (len <= 0)
		return 0;
	path[len] = 0;
	*wal = len > 4 && !strcmp(path + len - 4, ".wal");
	return !strncmp(path, dir, dir_len);
}

struct kept {
	struct kept *next;
	dev_t dev;
	ino_t ino;
	off64_t at;
	size_t len;
	char bytes[];
};

static struct kept *first, **last = &first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static ssize_t all(int fd, const char *bytes, size_t len, off64_t at)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = real_pwrite(fd, bytes + done, len - done, at + (off64_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -1;
		done += (size_t)n;
	}
	return (ssize_t)len;
}

ssize_t pwrite64(int fd, const void *bytes, size_t len, off64_t at)
{
	int wal = 0;
	struct stat file;
	begin();
	if (!ours(fd, &wal))
		return real_pwrite(fd, bytes, len, at);
	if (control->error) {
		errno = (int)control->error;
		return -1;
	}
	if (!wal || !control->lose || fstat(fd, &file))
		return real_pwrite(fd, bytes, len, at);
	struct kept *kept = malloc(sizeof *kept + len);
	if (!kept)
		return real_pwrite(fd, bytes, len, at);
	kept->next = NULL, kept->dev = file.st_dev, kept->ino = file.st_ino, kept->at = at, kept->len = len;
	memcpy(kept->bytes, bytes, len);
	pthread_mutex_lock(&lock);
	*last = kept, last = &kept->next;
	for (off64_t from = at; from < at + (off64_t)len;) {
		off64_t to = (from / 512 + 1) * 512;
		if (to > at + (off64_t)len)
			to = at + (off64_t)len;
		if ((int64_t)(chance() % 100) < control->torn)
			all(fd, kept->bytes + (from - at), (size_t)(to - from), from);
		from = to;
	}
	pthread_mutex_unlock(&lock);
	return (ssize_t)len;
}

ssize_t pwrite(int fd, const void *bytes, size_t len, off_t at) { return pwrite64(fd, bytes, len, at); }

ssize_t write(int fd, const void *bytes, size_t len)
{
	int wal = 0;
	begin();
	if (control->error && ours(fd, &wal)) {
		errno = (int)control->error;
		return -1;
	}
	return real_write(fd, bytes, len);
}

static int synced(int fd, int (*sync)(int))
{
	int wal = 0;
	struct stat file;
	if (!ours(fd, &wal))
		return sync(fd);
	if (control->error) {
		errno = (int)control->error;
		return -1;
	}
	if (wal && control->slow_us)
		usleep((useconds_t)(chance() % (uint64_t)control->slow_us));
	if (wal && !fstat(fd, &file)) {
		pthread_mutex_lock(&lock);
		for (struct kept **at = &first; *at;) {
			struct kept *kept = *at;
			if (kept->dev != file.st_dev || kept->ino != file.st_ino) {
				at = &kept->next;
				continue;
			}
			if (all(fd, kept->bytes, kept->len, kept->at) < 0) {
				pthread_mutex_unlock(&lock);
				return -1;
			}
			*at = kept->next;
			if (!*at)
				last = at;
			free(kept);
		}
		pthread_mutex_unlock(&lock);
	}
	return sync(fd);
}

int fsync(int fd) { begin(); return synced(fd, real_fsync); }
int fdatasync(int fd) { begin(); return synced(fd, real_fdatasync); }

/* A read-only disk opens nothing to be written. */
static int refused(const char *path, int flags)
{
	begin();
	if (control->error != EROFS || !dir_len || strncmp(path, dir, dir_len))
		return 0;
	if (!(flags & (O_WRONLY | O_RDWR | O_CREAT | O_TRUNC)))
		return 0;
	errno = EROFS;
	return 1;
}

int open64(const char *path, int flags, ...)
{
	static int (*real)(const char *, int, ...);
	va_list list;
	va_start(list, flags);
	mode_t mode = flags & O_CREAT ? va_arg(list, mode_t) : 0;
	va_end(list);
	if (!real)
		real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
	return refused(path, flags) ? -1 : real(path, flags, mode);
}

int rename(const char *from, const char *to)
{
	static int (*real)(const char *, const char *);
	if (!real)
		real = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
	return refused(to, O_CREAT) ? -1 : real(from, to);
}

int unlink(const char *path)
{
	static int (*real)(const char *);
	if (!real)
		real = (int (*)(const char *))dlsym(RTLD_NEXT, "unlink");
	return refused(path, O_WRONLY) ? -1 : real(path);
}

int mkdir(const char *path, mode_t mode)
{
	static int (*real)(const char *, mode_t);
	if (!real)
		real = (int (*)(const char *, mode_t))dlsym(RTLD_NEXT, "mkdir");
	return refused(path, O_CREAT) ? -1 : real(path, mode);
}

static int64_t offset(clockid_t clock)
{
	switch (clock) {
	case CLOCK_REALTIME:
	case CLOCK_REALTIME_COARSE:
		return control->real_ns;
	case CLOCK_MONOTONIC:
	case CLOCK_MONOTONIC_COARSE:
	case CLOCK_MONOTONIC_RAW:
	case CLOCK_BOOTTIME:
		return control->mono_ns;
	default:
		return 0;
	}
}

static void add(struct timespec *time, int64_t ns)
{
	int64_t all = (int64_t)time->tv_sec * 1000000000 + time->tv_nsec + ns;
	time->tv_sec = all / 1000000000, time->tv_nsec = all % 1000000000;
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	begin();
	int result = (int)real_syscall(SYS_clock_gettime, clock, time);
	if (!result && offset(clock))
		add(time, offset(clock));
	return result;
}

/* A wait until a moment of the clock that jumped: the kernel has its own. */
long syscall(long number, ...)
{
	va_list list;
	long a[6];
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(list, long);
	va_end(list);
	begin();
	struct timespec until;
	if (number == SYS_futex && (a[1] & FUTEX_CMD_MASK) == FUTEX_WAIT_BITSET && a[3]) {
		until = *(struct timespec *)a[3];
		add(&until, -(a[1] & FUTEX_CLOCK_REALTIME ? control->real_ns : control->mono_ns));
		a[3] = (long)&until;
	}
	return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

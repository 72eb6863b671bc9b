/* The bpf(2) of a kernel before 6.6, for whoever preloads this: it knows no tcx. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/syscall.h>

/* linux/bpf.h; Debian 12's header ends before them. */
enum { LINK_CREATE = 28, PROG_QUERY = 16, TCX_INGRESS = 46, TCX_EGRESS = 47 };

long syscall(long number, ...)
{
	static long (*next)(long, ...);
	unsigned int type = 0;
	long args[6];
	va_list list;

	va_start(list, number);
	for (int i = 0; i < 6; i++)
		args[i] = va_arg(list, long);
	va_end(list);
	/* Words of union bpf_attr: attach_type is the third of a new link, the second of a query. */
	if (number == SYS_bpf && args[0] == LINK_CREATE)
		type = ((unsigned int *)args[1])[2];
	if (number == SYS_bpf && args[0] == PROG_QUERY)
		type = ((unsigned int *)args[1])[1];
	if (type == TCX_INGRESS || type == TCX_EGRESS) {
		errno = EINVAL;
		return -1;
	}
	if (!next)
		next = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	return next(number, args[0], args[1], args[2], args[3], args[4], args[5]);
}

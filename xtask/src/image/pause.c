/* What holds a pod's namespaces, and what a pod runs that only has to be there: reaps, and ends when told to. Process 1 has no
   handler of its own. */
#include <signal.h>
#include <unistd.h>

static void end(int signal)
{
	(void)signal;
	_exit(0);
}

int main(void)
{
	signal(SIGCHLD, SIG_IGN);
	signal(SIGINT, end);
	signal(SIGTERM, end);
	for (;;)
		pause();
}

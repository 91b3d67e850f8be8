/*
 * The floor: what the kernel takes for a container of containerd's default configuration (tests/data/bundles/
 * ctr-default.json), and nothing else. It has the command line that hack/bench uses of a runtime:
 *
 *     floor --root DIR run [--detach] --bundle DIR ID      floor --root DIR start ID
 *     floor --root DIR create --bundle DIR ID              floor --root DIR delete --force ID
 *     floor --root DIR exec ID PROGRAM                     floor --root DIR state ID
 *
 * It reads no configuration, checks nothing, and defends nothing: paths are resolved by name, /proc/self/exe is this
 * file, and whoever kills it leaves a mess. What it makes is the same (floor.h).
 */
#include "floor.h"

/* Makes the process of the container. With a socket it waits there for `start`. */
static long make_container(const char *bundle, int socket, char **arguments, int *pidfd)
{
	long pid = clone_into_cgroup(NAMESPACES, pidfd);

	if (pid == 0) {
		CHECK(setsid());
		make_rootfs(format("%s/rootfs", bundle));
		drop_privileges();
		if (socket >= 0)
			CHECK(accept4(socket, 0, 0, SOCK_CLOEXEC));
		execute(arguments);
	}
	return pid;
}

static struct sockaddr_un address(const char *state)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof address.sun_path, "%s/start", state);
	return address;
}

static int read_pid(const char *state)
{
	char text[32] = "";
	int file = CHECK(open(format("%s/state.json", state), O_RDONLY | O_CLOEXEC));

	CHECK(read(file, text, sizeof text - 1));
	close(file);
	return atoi(text);
}

static int wait_for(int pid)
{
	int status;

	CHECK(waitpid(pid, &status, 0));
	return WEXITSTATUS(status);
}

static void wait_for_end(int pidfd)
{
	struct pollfd ended = {pidfd, POLLIN, 0};

	CHECK(poll(&ended, 1, 10000));
}

int main(int argc, char **argv)
{
	const char *root = argv[2], *command = argv[3], *bundle = 0, *id = 0;
	int detach = 0, pidfd, i;

	for (i = 4; i < argc && !id; i++) {
		if (strcmp(argv[i], "--bundle") == 0)
			bundle = argv[++i];
		else if (strcmp(argv[i], "--detach") == 0)
			detach = 1;
		else if (strcmp(argv[i], "--force") != 0)
			id = argv[i];
	}
	if (argc < 5 || !id) {
		fprintf(stderr, "usage: floor --root DIR COMMAND [OPTIONS] ID\n");
		return 1;
	}
	const char *state = strdup(format("%s/%s", root, id));
	char *sleep_long[] = {"/bin/sleep", "1000", 0}, *nothing[] = {"/bin/true", 0};

	if (strcmp(command, "run") == 0 && !detach) {
		make_cgroups(id);
		int status = wait_for(make_container(bundle, -1, nothing, &pidfd));

		remove_cgroups(id);
		return status;
	}
	if (strcmp(command, "create") == 0 || strcmp(command, "run") == 0) {
		mkdir(root, 0700);
		CHECK(mkdir(state, 0700));
		int listener = -1, executed[2];
		char none;

		CHECK(pipe2(executed, O_CLOEXEC));
		if (!detach) {
			struct sockaddr_un name = address(state);

			listener = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
			CHECK(bind(listener, (void *)&name, sizeof name));
			CHECK(listen(listener, 1));
		}
		make_cgroups(id);
		long pid = make_container(bundle, listener, sleep_long, &pidfd);

		write_file(format("%s/state.json", state), format("%ld", pid));
		close(executed[1]);
		/* exec closes the other end */
		if (detach)
			CHECK(read(executed[0], &none, 1));
	} else if (strcmp(command, "start") == 0) {
		struct sockaddr_un name = address(state);
		int connection = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
		char none;

		CHECK(connect(connection, (void *)&name, sizeof name));
		/* exec closes the other end */
		CHECK(read(connection, &none, 1));
		CHECK(unlink(name.sun_path));
	} else if (strcmp(command, "delete") == 0) {
		pidfd = syscall(SYS_pidfd_open, read_pid(state), 0);
		if (pidfd >= 0) {
			CHECK(syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, 0, 0));
			wait_for_end(pidfd);
		}
		remove_cgroups(id);
		unlink(format("%s/start", state));
		CHECK(unlink(format("%s/state.json", state)));
		CHECK(rmdir(state));
	} else if (strcmp(command, "exec") == 0) {
		open_cgroups(id);
		int container = CHECK(syscall(SYS_pidfd_open, read_pid(state), 0));

		CHECK(setns(container, NAMESPACES));
		long pid = clone_into_cgroup(0, &pidfd);

		if (pid == 0) {
			drop_privileges();
			execute(argv + i);
		}
		return wait_for(pid);
	} else if (strcmp(command, "state") == 0) {
		printf("{\"pid\": %d}\n", read_pid(state));
	}
	return 0;
}

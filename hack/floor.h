/*
 * What the kernel takes for a container of containerd's default configuration (tests/data/bundles/ctr-default.json):
 * namespaces, mounts, devices, masked and read-only paths, cgroups with limits and device rules, capabilities,
 * no_new_privs, groups, RLIMIT_NOFILE. floor.c puts a runtime's command line in front of it, floor-shim.c the task API
 * of containerd.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/bpf.h>
#include <linux/capability.h>
#include <linux/magic.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define CGROUP "/sys/fs/cgroup"
#define HIERARCHIES 16
#define NAMESPACES (CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)

static long check(long result, const char *what)
{
	if (result < 0) {
		fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
		_exit(99);
	}
	return result;
}
#define CHECK(call) check((long)(call), #call)

/* The text is good until eight others have been made. */
static const char *format(const char *text, ...)
{
	static char buffers[8][512];
	static int next;
	char *buffer = buffers[next++ % 8];
	va_list arguments;

	va_start(arguments, text);
	vsnprintf(buffer, sizeof buffers[0], text, arguments);
	va_end(arguments);
	return buffer;
}

static void write_file(const char *path, const char *text)
{
	int file = CHECK(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));

	CHECK(write(file, text, strlen(text)));
	close(file);
}

/* Cgroups. In v1 `tasks` has a file for each hierarchy, in v2 `unified` is the directory. */
static char hierarchies[HIERARCHIES][64];
static int count, tasks[HIERARCHIES], unified = -1;

static int is_v2(void)
{
	struct statfs found;

	return statfs(CGROUP, &found) == 0 && found.f_type == CGROUP2_SUPER_MAGIC;
}

static void find_hierarchies(void)
{
	DIR *directory = count ? 0 : opendir(CGROUP);
	struct dirent *entry;
	struct statfs found;

	if (!directory)
		return;
	while (count < HIERARCHIES && (entry = readdir(directory)))
		if (entry->d_type == DT_DIR && entry->d_name[0] != '.' &&
		    statfs(format(CGROUP "/%s", entry->d_name), &found) == 0 && found.f_type == CGROUP_SUPER_MAGIC)
			snprintf(hierarchies[count++], 64, "%.63s", entry->d_name);
	closedir(directory);
}

#define I(opcode, to, from, offset, value) ((struct bpf_insn){opcode, to, from, offset, value})
static const int rules[][2] = {{1, 3}, {1, 8}, {1, 7}, {5, 0}, {1, 5}, {1, 9}, {5, 1}, {136, -1}, {5, 2}, {10, 200}};

/* Allows mknod of all devices, and the use of those above. */
static void load_device_program(void)
{
	struct bpf_insn code[64];
	int n = 0;

	code[n++] = I(BPF_LDX | BPF_MEM | BPF_W, 2, 1, 0, 0);
	code[n++] = I(BPF_ALU64 | BPF_MOV | BPF_X, 3, 2, 0, 0);
	code[n++] = I(BPF_ALU | BPF_RSH | BPF_K, 3, 0, 0, 16);
	code[n++] = I(BPF_ALU | BPF_AND | BPF_K, 2, 0, 0, 0xffff);
	code[n++] = I(BPF_LDX | BPF_MEM | BPF_W, 4, 1, 4, 0);
	code[n++] = I(BPF_LDX | BPF_MEM | BPF_W, 5, 1, 8, 0);
	code[n++] = I(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 1);
	code[n++] = I(BPF_JMP | BPF_JNE | BPF_K, 3, 0, 1, BPF_DEVCG_ACC_MKNOD);
	code[n++] = I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	for (unsigned i = 0; i < sizeof rules / sizeof rules[0]; i++) {
		int any = rules[i][1] < 0;

		code[n++] = I(BPF_JMP | BPF_JNE | BPF_K, 4, 0, any ? 1 : 2, rules[i][0]);
		if (!any)
			code[n++] = I(BPF_JMP | BPF_JNE | BPF_K, 5, 0, 1, rules[i][1]);
		code[n++] = I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	}
	code[n++] = I(BPF_ALU64 | BPF_MOV | BPF_K, 0, 0, 0, 0);
	code[n++] = I(BPF_JMP | BPF_EXIT, 0, 0, 0, 0);
	union bpf_attr load = {.prog_type = BPF_PROG_TYPE_CGROUP_DEVICE, .insn_cnt = n, .insns = (__u64)code,
			       .license = (__u64) "GPL"};
	int program = CHECK(syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof load));
	union bpf_attr attach = {.target_fd = unified, .attach_bpf_fd = program, .attach_type = BPF_CGROUP_DEVICE,
				 .attach_flags = BPF_F_ALLOW_MULTI};

	CHECK(syscall(SYS_bpf, BPF_PROG_ATTACH, &attach, sizeof attach));
	close(program);
}

static void copy_from_parent(const char *parent, const char *path, const char *name)
{
	char text[256];
	int file = CHECK(open(format("%s/%s", parent, name), O_RDONLY | O_CLOEXEC));
	long length = CHECK(read(file, text, sizeof text));

	close(file);
	file = CHECK(open(format("%s/%s", path, name), O_WRONLY | O_CLOEXEC));
	CHECK(write(file, text, length));
	close(file);
}

static void make_cgroups(const char *id)
{
	if (is_v2()) {
		CHECK(mkdir(format(CGROUP "/floor-%s", id), 0755));
		unified = CHECK(open(format(CGROUP "/floor-%s", id), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		load_device_program();
		return;
	}
	find_hierarchies();
	for (int i = 0; i < count; i++) {
		const char *path = strdup(format(CGROUP "/%s/floor-%s", hierarchies[i], id));

		CHECK(mkdir(path, 0755));
		if (strcmp(hierarchies[i], "cpuset") == 0) {
			copy_from_parent(CGROUP "/cpuset", path, "cpuset.cpus");
			copy_from_parent(CGROUP "/cpuset", path, "cpuset.mems");
		} else if (strcmp(hierarchies[i], "cpu") == 0) {
			write_file(format("%s/cpu.shares", path), "1024");
		} else if (strcmp(hierarchies[i], "devices") == 0) {
			write_file(format("%s/devices.deny", path), "a");
			int allow = CHECK(open(format("%s/devices.allow", path), O_WRONLY | O_CLOEXEC));

			CHECK(write(allow, "c *:* m", 7));
			CHECK(write(allow, "b *:* m", 7));
			for (unsigned j = 0; j < sizeof rules / sizeof rules[0]; j++) {
				const char *minor = rules[j][1] < 0 ? "*" : format("%d", rules[j][1]);
				const char *rule = format("c %d:%s rwm", rules[j][0], minor);

				CHECK(write(allow, rule, strlen(rule)));
			}
			close(allow);
		}
		tasks[i] = CHECK(open(format("%s/tasks", path), O_WRONLY | O_CLOEXEC));
	}
}

static void open_cgroups(const char *id)
{
	if (is_v2()) {
		unified = CHECK(open(format(CGROUP "/floor-%s", id), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
		return;
	}
	find_hierarchies();
	for (int i = 0; i < count; i++)
		tasks[i] = CHECK(open(format(CGROUP "/%s/floor-%s/tasks", hierarchies[i], id), O_WRONLY | O_CLOEXEC));
}

static void remove_cgroups(const char *id)
{
	if (is_v2()) {
		CHECK(rmdir(format(CGROUP "/floor-%s", id)));
		return;
	}
	find_hierarchies();
	for (int i = 0; i < count; i++)
		CHECK(rmdir(format(CGROUP "/%s/floor-%s", hierarchies[i], id)));
}

static long clone_into_cgroup(unsigned long flags, int *pidfd)
{
	struct clone_args arguments = {.flags = flags | CLONE_PIDFD, .pidfd = (__u64)pidfd, .exit_signal = SIGCHLD};

	if (unified >= 0) {
		arguments.flags |= CLONE_INTO_CGROUP;
		arguments.cgroup = unified;
	}
	long pid = CHECK(syscall(SYS_clone3, &arguments, sizeof arguments));

	if (pid == 0)
		for (int i = 0; i < count; i++)
			CHECK(write(tasks[i], "0", 1));
	return pid;
}

static void node(const char *path, int major, int minor)
{
	CHECK(mknod(path, S_IFCHR | 0666, makedev(major, minor)));
}

static void make_rootfs(const char *rootfs)
{
	static const char *read_only[] = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", 0};
	static const char *masked[] = {"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
				       "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/sys/firmware",
				       "/sys/devices/virtual/powercap", "/proc/scsi", 0};
	const unsigned long harmless = MS_NOSUID | MS_NOEXEC | MS_NODEV;

	CHECK(mount(0, "/", 0, MS_REC | MS_SLAVE, 0));
	CHECK(mount(rootfs, rootfs, 0, MS_BIND | MS_REC, 0));
	CHECK(chdir(rootfs));
	CHECK(mount("proc", "proc", "proc", harmless, 0));
	CHECK(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	CHECK(mkdir("dev/pts", 0755));
	CHECK(mkdir("dev/shm", 0755));
	CHECK(mkdir("dev/mqueue", 0755));
	CHECK(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
	CHECK(mount("shm", "dev/shm", "tmpfs", harmless, "mode=1777,size=65536k"));
	CHECK(mount("mqueue", "dev/mqueue", "mqueue", harmless, 0));
	CHECK(mount("sysfs", "sys", "sysfs", harmless | MS_RDONLY, 0));
	CHECK(mount("tmpfs", "run", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
	umask(0);
	node("dev/null", 1, 3);
	node("dev/zero", 1, 5);
	node("dev/full", 1, 7);
	node("dev/random", 1, 8);
	node("dev/urandom", 1, 9);
	node("dev/tty", 5, 0);
	umask(022);
	CHECK(symlink("/proc/self/fd", "dev/fd"));
	CHECK(symlink("/proc/self/fd/0", "dev/stdin"));
	CHECK(symlink("/proc/self/fd/1", "dev/stdout"));
	CHECK(symlink("/proc/self/fd/2", "dev/stderr"));
	CHECK(symlink("pts/ptmx", "dev/ptmx"));
	CHECK(syscall(SYS_pivot_root, ".", "."));
	CHECK(umount2(".", MNT_DETACH));
	CHECK(chdir("/"));
	for (int i = 0; read_only[i]; i++)
		if (mount(read_only[i], read_only[i], 0, MS_BIND | MS_REC, 0) == 0)
			CHECK(mount(0, read_only[i], 0, MS_BIND | MS_REMOUNT | MS_RDONLY | harmless, 0));
	for (int i = 0; masked[i]; i++)
		if (mount("/dev/null", masked[i], 0, MS_BIND, 0) != 0 && errno == ENOTDIR)
			CHECK(mount("tmpfs", masked[i], "tmpfs", MS_RDONLY | harmless, "nr_blocks=1,nr_inodes=1"));
}

/* The group, capabilities and limits of the configuration: what containerd gives by default. */
static void drop_privileges(void)
{
	const unsigned long keep = 1UL << CAP_CHOWN | 1UL << CAP_DAC_OVERRIDE | 1UL << CAP_FOWNER | 1UL << CAP_FSETID |
				   1UL << CAP_KILL | 1UL << CAP_SETGID | 1UL << CAP_SETUID | 1UL << CAP_SETPCAP |
				   1UL << CAP_NET_BIND_SERVICE | 1UL << CAP_NET_RAW | 1UL << CAP_SYS_CHROOT |
				   1UL << CAP_MKNOD | 1UL << CAP_AUDIT_WRITE | 1UL << CAP_SETFCAP;
	struct __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2] = {{keep, keep, 0}, {0, 0, 0}};
	struct rlimit files = {1024, 1024};
	gid_t root = 0;

	CHECK(setgroups(1, &root));
	for (int i = 0; i <= CAP_LAST_CAP; i++)
		if (!(keep >> i & 1))
			CHECK(prctl(PR_CAPBSET_DROP, i, 0, 0, 0));
	CHECK(syscall(SYS_capset, &header, data));
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
	CHECK(setrlimit(RLIMIT_NOFILE, &files));
}

static void execute(char **arguments)
{
	static char *environment[] = {"PATH=/bin", 0};

	environ = environment;
	CHECK(execvp(arguments[0], arguments));
}

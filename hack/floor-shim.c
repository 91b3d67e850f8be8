/*
 * The floor of a shim: what containerd and the kernel take for `ctr run` and `ctr tasks exec`, and nothing else. In the
 * PATH of containerd as containerd-shim-floor-v2 it is the runtime io.containerd.floor.v2:
 *
 *     containerd-shim-floor-v2 -namespace NAMESPACE -id ID ... start | delete
 *
 * `start` prints the address of a socket on which a shim serves the task API: a new one, or that of the container which
 * the annotation io.containerd.runc.v2.group names. The containers are those of floor.h; of their configuration only
 * the arguments are read. There are no terminals. No event is sent, because `ctr` waits for none. Any error ends the
 * shim, and `delete` clears nothing away.
 */
#include "floor.h"
#include <arpa/inet.h>
#include <sys/epoll.h>
#include <time.h>

#define ADDRESS "unix://"
#define GROUP "\"io.containerd.runc.v2.group\":\""
#define ARGUMENTS "\"args\":["

static const char *socket_path;
static int epoll, own_pids;

/* What epoll waits for. */
struct source {
	int fd;
	void (*ready)(struct source *source);
};

static void watch(struct source *source)
{
	struct epoll_event event = {EPOLLIN, {.ptr = source}};

	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, source->fd, &event));
}

/* Protocol buffers: a message is a sequence of fields. Each has a key, and a number or a text as its value. */
struct field {
	const char *text;
	unsigned long number;	/* or the length of the text */
};
#define FIELDS 16
#define TEXT(field) (int)(field).number, (field).text	/* for "%.*s" */

static unsigned long take_number(struct field *from)
{
	unsigned long number = 0;

	for (int shift = 0;; shift += 7) {
		unsigned char byte = *from->text++;

		from->number--;
		number |= (byte & 127UL) << shift;
		if (byte < 128)
			return number;
	}
}

/* Takes a message's next field, and returns its number; 0 is the end. */
static int take_field(struct field *message, struct field *field)
{
	if (message->number == 0)
		return 0;
	unsigned long key = take_number(message);

	*field = (struct field){0, take_number(message)};
	if ((key & 7) == 2) {
		field->text = message->text;
		message->text += field->number;
		message->number -= field->number;
	}
	return key >> 3;
}

static void decode(struct field message, struct field fields[FIELDS])
{
	struct field field;
	int number;

	memset(fields, 0, FIELDS * sizeof *fields);
	while ((number = take_field(&message, &field)))
		if (number < FIELDS)
			fields[number] = field;
}

struct message {
	int length;
	char bytes[2048];
};

static void append_number(struct message *message, unsigned long number)
{
	for (; number > 127; number >>= 7)
		message->bytes[message->length++] = number | 128;
	message->bytes[message->length++] = number;
}

static void put_number(struct message *message, int field, unsigned long number)
{
	append_number(message, field << 3);
	append_number(message, number);
}

static void put_bytes(struct message *message, int field, const char *bytes, int length)
{
	append_number(message, field << 3 | 2);
	append_number(message, length);
	memcpy(message->bytes + message->length, bytes, length);
	message->length += length;
}

static void put_text(struct message *message, int field, const char *text)
{
	put_bytes(message, field, text, strlen(text));
}

/*
 * ttrpc: a header of ten bytes (length, number of the request, type, flags), and a message. A request has service,
 * method and payload; a response has a status, if there is an error, and a payload.
 */
#define HEADER 10
#define RESPONSE 2

struct caller {
	int connection;
	unsigned request;
};

static void respond(struct caller caller, const struct message *payload)
{
	struct message response = {.length = HEADER};

	put_bytes(&response, 2, payload->bytes, payload->length);
	unsigned numbers[2] = {htonl(response.length - HEADER), htonl(caller.request)};

	memcpy(response.bytes, numbers, sizeof numbers);
	response.bytes[8] = RESPONSE;
	CHECK(write(caller.connection, response.bytes, response.length));
}

/* A container's first process, or one that was executed in it. */
struct process {
	struct source pidfd;	/* the first member: see reap */
	struct process *next;
	char id[128], exec_id[128], bundle[256];
	int pid, gate, input, exit_code;
	struct timespec ended;
	int waiting;
	struct caller callers[8];
};
static struct process *processes;

static int is(struct field field, const char *text)
{
	return field.number == strlen(text) && memcmp(field.text, text, field.number) == 0;
}

static struct process *find(struct field id, struct field exec_id)
{
	struct process *process = processes;

	while (process && !(is(id, process->id) && is(exec_id, process->exec_id)))
		process = process->next;
	return process;
}

static void put_end(struct message *message, int field, const struct process *process)
{
	struct message time = {0};

	put_number(&time, 1, process->ended.tv_sec);
	put_number(&time, 2, process->ended.tv_nsec);
	put_number(message, field, process->exit_code);
	put_bytes(message, field + 1, time.bytes, time.length);
}

/* A process has ended. */
static void reap(struct source *pidfd)
{
	struct process *process = (struct process *)pidfd;
	struct message answer = {0};
	int status;

	CHECK(waitpid(process->pid, &status, 0));
	CHECK(epoll_ctl(epoll, EPOLL_CTL_DEL, pidfd->fd, 0));
	CHECK(clock_gettime(CLOCK_REALTIME, &process->ended));
	process->exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
	put_end(&answer, 1, process);
	for (int i = 0; i < process->waiting; i++)
		respond(process->callers[i], &answer);
}

static void mount_rootfs(struct field mounted, const char *rootfs)
{
	struct field fields[FIELDS], option;
	char options[4096] = "";
	int number;

	decode(mounted, fields);
	while ((number = take_field(&mounted, &option)))
		if (number == 4)
			sprintf(options + strlen(options), "%s%.*s", *options ? "," : "", TEXT(option));
	CHECK(mount(format("%.*s", TEXT(fields[2])), rootfs, format("%.*s", TEXT(fields[1])), 0, options));
}

/* The streams are fifos, which containerd's client has open, or have no name. */
static int open_stream(struct field name, int flags)
{
	return CHECK(open(name.number ? format("%.*s", TEXT(name)) : "/dev/null", flags | O_CLOEXEC));
}

static char *read_file(const char *path)
{
	static const int most = 1 << 20;
	int file = CHECK(open(path, O_RDONLY | O_CLOEXEC));
	char *text = malloc(most);

	text[CHECK(read(file, text, most - 1))] = 0;
	close(file);
	return text;
}

/* The arguments in a configuration or process, which containerd writes without spaces. None may need an escape. */
static char **arguments_of(char *json)
{
	static char *arguments[64];
	char *at = strstr(json, ARGUMENTS) + strlen(ARGUMENTS);

	for (int i = 0; *at == '"'; i++) {
		arguments[i] = ++at;
		at = strchr(at, '"');
		*at++ = 0;
		at += *at == ',';
	}
	return arguments;
}

/* The first process of a container, or a further one of a container that is there. It waits for its start. */
static struct process *make_process(struct field id, struct field exec_id, struct field bundle,
				    const struct field *streams, struct field specification)
{
	struct process *process = calloc(1, sizeof *process), *init = find(id, (struct field){0});
	int input = open_stream(streams[0], O_RDONLY | O_NONBLOCK), output = open_stream(streams[1], O_WRONLY),
	    error = open_stream(streams[2], O_WRONLY), gates[2];

	snprintf(process->id, sizeof process->id, "%.*s", TEXT(id));
	snprintf(process->exec_id, sizeof process->exec_id, "%.*s", TEXT(exec_id));
	snprintf(process->bundle, sizeof process->bundle, "%.*s", TEXT(bundle));
	/* The input ends when containerd says so, not when its client has closed it. */
	process->input = open_stream(streams[0], O_WRONLY);
	CHECK(fcntl(input, F_SETFL, 0));
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, gates));
	if (init) {
		open_cgroups(process->id);
		CHECK(setns(init->pidfd.fd, CLONE_NEWPID));	/* of the next child */
	} else {
		make_cgroups(process->id);
	}
	process->pid = clone_into_cgroup(init ? 0 : NAMESPACES, &process->pidfd.fd);
	if (process->pid == 0) {
		char none, **arguments;

		if (init) {
			arguments = arguments_of(strndup(specification.text, specification.number));
			CHECK(setns(init->pidfd.fd, NAMESPACES & ~CLONE_NEWPID));
		} else {
			arguments = arguments_of(read_file(format("%s/config.json", process->bundle)));
			make_rootfs(format("%s/rootfs", process->bundle));
		}
		CHECK(setsid());
		CHECK(dup2(input, 0));
		CHECK(dup2(output, 1));
		CHECK(dup2(error, 2));
		drop_privileges();
		CHECK(read(gates[1], &none, 1));
		execute(arguments);
	}
	if (init)
		CHECK(setns(own_pids, CLONE_NEWPID));
	for (int i = 0; i < count; i++)
		close(tasks[i]);
	if (unified >= 0)
		close(unified);
	close(input);
	close(output);
	close(error);
	close(gates[1]);
	process->gate = gates[0];
	process->pidfd.ready = reap;
	watch(&process->pidfd);
	process->next = processes;
	processes = process;
	return process;
}

static void start(struct process *process)
{
	char none;

	CHECK(write(process->gate, "", 1));
	CHECK(read(process->gate, &none, 1));	/* exec closes the other end */
	close(process->gate);
	process->gate = -1;
}

static void close_input(struct process *process)
{
	if (process->input >= 0)
		close(process->input);
	process->input = -1;
}

static void delete(struct process *process)
{
	struct process **link = &processes;

	if (!*process->exec_id) {
		remove_cgroups(process->id);
		CHECK(umount2(format("%s/rootfs", process->bundle), 0));
	}
	close_input(process);
	close(process->pidfd.fd);
	while (*link != process)
		link = &(*link)->next;
	*link = process->next;
	free(process);
}

static void put_state(struct message *message, const struct process *process)
{
	enum {CREATED = 1, RUNNING, STOPPED};

	put_text(message, 1, process->id);
	put_text(message, 2, process->bundle);
	put_number(message, 3, process->pid);
	put_number(message, 4, process->ended.tv_sec ? STOPPED : process->gate >= 0 ? CREATED : RUNNING);
	put_end(message, 9, process);
	put_text(message, 11, process->exec_id);
}

/* Calls a method of containerd.task.v2.Task. */
static void call(struct field method, const struct field *fields, struct caller caller)
{
	struct process *process = 0;
	struct message answer = {0};

	if (is(method, "Create")) {
		mount_rootfs(fields[3], format("%.*s/rootfs", TEXT(fields[2])));
		process = make_process(fields[1], (struct field){0}, fields[2], fields + 5, (struct field){0});
		put_number(&answer, 1, process->pid);
	} else if (is(method, "Exec")) {
		struct field any[FIELDS];

		decode(fields[7], any);
		make_process(fields[1], fields[2], (struct field){0}, fields + 4, any[2]);
	} else if (is(method, "Connect")) {
		process = find(fields[1], (struct field){0});
		put_number(&answer, 1, getpid());
		put_number(&answer, 2, process ? process->pid : 0);
	} else if (is(method, "Pids")) {
		for (process = processes; process; process = process->next)
			if (is(fields[1], process->id) && !process->ended.tv_sec) {
				struct message info = {0};

				put_number(&info, 1, process->pid);
				put_bytes(&answer, 1, info.bytes, info.length);
			}
	} else if (is(method, "Shutdown")) {
		if (!processes) {
			respond(caller, &answer);
			CHECK(unlink(socket_path));
			exit(0);
		}
	} else if (!(process = find(fields[1], fields[2]))) {
		errno = ESRCH;
		CHECK(-1);
	} else if (is(method, "Start")) {
		start(process);
		put_number(&answer, 1, process->pid);
	} else if (is(method, "State")) {
		put_state(&answer, process);
	} else if (is(method, "Wait")) {
		if (!process->ended.tv_sec) {
			process->callers[process->waiting++] = caller;
			return;
		}
		put_end(&answer, 1, process);
	} else if (is(method, "Kill")) {
		/* It may have ended. */
		syscall(SYS_pidfd_send_signal, process->pidfd.fd, (int)fields[3].number, 0, 0);
	} else if (is(method, "CloseIO")) {
		close_input(process);
	} else if (is(method, "Delete")) {
		put_number(&answer, 1, process->pid);
		put_end(&answer, 2, process);
		delete(process);
	}
	respond(caller, &answer);
}

static void serve(struct source *connection)
{
	static char request[1 << 18];
	struct field fields[FIELDS], arguments[FIELDS];
	unsigned header[3];

	if (recv(connection->fd, header, HEADER, MSG_WAITALL) <= 0) {
		close(connection->fd);
		free(connection);
		return;
	}
	unsigned length = ntohl(header[0]);

	CHECK(recv(connection->fd, request, length, MSG_WAITALL));
	decode((struct field){request, length}, fields);
	decode(fields[3], arguments);
	call(fields[2], arguments, (struct caller){connection->fd, ntohl(header[1])});
}

static void accept_connection(struct source *listener)
{
	struct source *connection = malloc(sizeof *connection);

	*connection = (struct source){CHECK(accept4(listener->fd, 0, 0, SOCK_CLOEXEC)), serve};
	watch(connection);
}

/* The shim. Its errors go to the log, a fifo in the bundle. */
static void serve_all(int listening)
{
	static struct source listener;
	int null = CHECK(open("/dev/null", O_RDWR | O_CLOEXEC)), log = CHECK(open("log", O_RDWR | O_CLOEXEC));

	CHECK(setsid());
	CHECK(dup2(null, 0));
	CHECK(dup2(null, 1));
	CHECK(dup2(log, 2));
	own_pids = CHECK(open("/proc/self/ns/pid", O_RDONLY | O_CLOEXEC));
	epoll = CHECK(epoll_create1(EPOLL_CLOEXEC));
	listener = (struct source){listening, accept_connection};
	watch(&listener);
	for (;;) {
		struct epoll_event event;

		if (epoll_wait(epoll, &event, 1, -1) == 1) {
			struct source *source = event.data.ptr;

			source->ready(source);
		}
	}
}

int main(int argc, char **argv)
{
	const char *namespace = "", *id = "";
	struct sockaddr_un name = {.sun_family = AF_UNIX};
	char *configuration, *group;

	for (int i = 1; i + 1 < argc; i++) {
		if (strcmp(argv[i], "-namespace") == 0)
			namespace = argv[i + 1];
		else if (strcmp(argv[i], "-id") == 0)
			id = argv[i + 1];
	}
	if (argc < 2 || strcmp(argv[argc - 1], "start") != 0)
		return 0;
	configuration = read_file("config.json");
	group = strstr(configuration, GROUP);
	if (group) {
		group += strlen(GROUP);
		*strchr(group, '"') = 0;
		if (strcmp(group, id) != 0) {
			printf("%s", read_file(format("../%s/address", group)));
			return 0;
		}
	}
	free(configuration);
	socket_path = name.sun_path;
	snprintf(name.sun_path, sizeof name.sun_path, "/run/floor-shim-%s-%s", namespace, id);
	int listening = CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));

	CHECK(bind(listening, (void *)&name, sizeof name));
	CHECK(listen(listening, 16));
	write_file("address", format(ADDRESS "%s", socket_path));
	if (CHECK(fork()) == 0)
		serve_all(listening);
	printf(ADDRESS "%s", socket_path);
	return 0;
}

/* The limit: how fast this machine starts a child, reads its output to the end and waits for it.
 *
 *   limit CHILD PROMPT_FILE COUNT CLIENTS
 *
 * keeps CLIENTS children going until COUNT have ended; prints the seconds that took, and those of its own CPU time.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_CLIENTS 256

extern char **environ;

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static pid_t start(char *child, const char *prompt, int *out) {
    char *argv[] = {child, NULL};
    posix_spawn_file_actions_t actions;
    pid_t pid;
    int ends[2];
    if (pipe2(ends, O_CLOEXEC)) fail("pipe");
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 0, prompt, O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, ends[1], 1);
    if (posix_spawn(&pid, child, &actions, NULL, argv, environ)) fail("posix_spawn");
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    *out = ends[0];
    return pid;
}

int main(int argc, char **argv) {
    if (argc != 5) return 2;
    int count = atoi(argv[3]), clients = atoi(argv[4]), started = 0, ended = 0;
    pid_t pids[MOST_CLIENTS];
    struct pollfd polled[MOST_CLIENTS];
    struct timespec from, to, own;
    char buffer[65536];
    if (clients > MOST_CLIENTS || clients > count) return 2;
    clock_gettime(CLOCK_MONOTONIC, &from);
    for (int i = 0; i < clients; i++, started++) {
        pids[i] = start(argv[1], argv[2], &polled[i].fd);
        polled[i].events = POLLIN;
    }
    while (ended < count) {
        if (poll(polled, clients, -1) < 0) fail("poll");
        for (int i = 0; i < clients; i++) {
            if (polled[i].fd < 0 || !polled[i].revents || read(polled[i].fd, buffer, sizeof buffer) > 0) continue;
            close(polled[i].fd);
            if (waitpid(pids[i], NULL, 0) < 0) fail("waitpid");
            ended++;
            polled[i].fd = -1;
            if (started < count) {
                pids[i] = start(argv[1], argv[2], &polled[i].fd);
                started++;
            }
        }
    }
    clock_gettime(CLOCK_MONOTONIC, &to);
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
    printf("%.6f %.6f\n", (to.tv_sec - from.tv_sec) + (to.tv_nsec - from.tv_nsec) / 1e9, own.tv_sec + own.tv_nsec / 1e9);
    return 0;
}

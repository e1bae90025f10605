/* A trivial agent: it speaks the lines of `claude -p` and does what its prompt says.
 *
 *   stream LINES INTERVAL_US   so many messages at a fixed rate, each with the time it was written
 *   idle                       a started run that says nothing more
 *   anything else              one message, with the time at which this process began
 *
 * Times are nanoseconds of CLOCK_MONOTONIC, which every process of the machine shares.
 */
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define AT_MOST_S 120

static const char BEGIN[] = "{\"type\":\"system\",\"subtype\":\"init\",\"model\":\"bench\","
                            "\"session_id\":\"0199f1a2-0000-7000-8000-000000000000\"}\n";
static const char END[] = "{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"num_turns\":1,"
                          "\"stop_reason\":\"end_turn\",\"usage\":{\"input_tokens\":9,\"output_tokens\":3}}\n";

static long long now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static int message(char *into, size_t room, const char *word, long long at) {
    return snprintf(into, room,
                    "{\"type\":\"stream_event\",\"event\":{\"type\":\"content_block_delta\",\"index\":0,"
                    "\"delta\":{\"type\":\"text_delta\",\"text\":\"%s=%lld\\n\\n\"}}}\n",
                    word, at);
}

static void say(const char *data, size_t length) {
    if (write(1, data, length) < 0) _exit(1);
}

static void stream(int lines, int interval_us) {
    char line[256];
    struct timespec next;
    clock_gettime(CLOCK_MONOTONIC, &next);
    for (int i = 0; i < lines; i++) {
        next.tv_nsec += interval_us * 1000L;
        next.tv_sec += next.tv_nsec / 1000000000L;
        next.tv_nsec %= 1000000000L;
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &next, NULL);
        say(line, message(line, sizeof line, "written", now_ns()));
    }
}

int main(int count, char **words) {
    long long began = now_ns();
    char prompt[4096], answer[1024];
    size_t length = 0;
    ssize_t got;
    int lines, interval_us;

    while (count-- > 1) /* it serves one prompt */
        if (strcmp(words[count], "--input-format=stream-json") == 0) return 2;
    alarm(AT_MOST_S); /* whatever becomes of its parent */
    while (length < sizeof prompt - 1 && (got = read(0, prompt + length, sizeof prompt - 1 - length)) > 0) length += got;
    prompt[length] = 0;
    if (sscanf(prompt, "stream %d %d", &lines, &interval_us) == 2) {
        say(BEGIN, sizeof BEGIN - 1);
        stream(lines, interval_us);
        say(END, sizeof END - 1);
    } else if (strncmp(prompt, "idle", 4) == 0) {
        say(BEGIN, sizeof BEGIN - 1);
        pause();
    } else {
        length = strlen(strcpy(answer, BEGIN));
        length += message(answer + length, sizeof answer - length, "began", began);
        length += strlen(strcpy(answer + length, END));
        say(answer, length);
    }
    return 0;
}

/* A stand-in for the agent of OpenSSH for Windows: its pipe, whose requests a real ssh-agent answers, behind a TCP port.
 * usage: agent_pipe PORT   (serves one request after the other, until it is killed) */
#include <winsock2.h>
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

#define LONGEST 65536

static int from_pipe(HANDLE pipe, char *to, DWORD length) {
    for (DWORD got; length > 0; to += got, length -= got)
        if (!ReadFile(pipe, to, length, &got, NULL) || got == 0) return 0;
    return 1;
}

static int from_socket(SOCKET socket, char *to, int length) {
    for (int got; length > 0; to += got, length -= got)
        if ((got = recv(socket, to, length, 0)) <= 0) return 0;
    return 1;
}

static unsigned length_of(const char *header) {
    const unsigned char *byte = (const unsigned char *)header;
    return (unsigned)byte[0] << 24 | byte[1] << 16 | byte[2] << 8 | byte[3];
}

/* One request and its answer. */
static void serve(HANDLE pipe, struct sockaddr_in *agent) {
    static char message[4 + LONGEST];
    unsigned length;
    DWORD sent;
    if (!from_pipe(pipe, message, 4) || (length = length_of(message)) > LONGEST) return;
    if (!from_pipe(pipe, message + 4, length)) return;
    SOCKET peer = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(peer, (struct sockaddr *)agent, sizeof *agent) == 0 && send(peer, message, 4 + length, 0) > 0 &&
        from_socket(peer, message, 4) && (length = length_of(message)) <= LONGEST &&
        from_socket(peer, message + 4, length))
        WriteFile(pipe, message, 4 + length, &sent, NULL);
    closesocket(peer);
}

int main(int count, char **words) {
    WSADATA data;
    if (count != 2 || WSAStartup(MAKEWORD(2, 2), &data) != 0) return 2;
    struct sockaddr_in agent = {.sin_family = AF_INET, .sin_port = htons(atoi(words[1]))};
    agent.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    for (;;) {
        HANDLE pipe = CreateNamedPipeA("\\\\.\\pipe\\openssh-ssh-agent", PIPE_ACCESS_DUPLEX, PIPE_TYPE_BYTE | PIPE_WAIT,
                                       PIPE_UNLIMITED_INSTANCES, LONGEST, LONGEST, 0, NULL);
        if (pipe == INVALID_HANDLE_VALUE) return 1;
        if (ConnectNamedPipe(pipe, NULL) || GetLastError() == ERROR_PIPE_CONNECTED) serve(pipe, &agent);
        FlushFileBuffers(pipe);
        DisconnectNamedPipe(pipe);
        CloseHandle(pipe);
    }
}

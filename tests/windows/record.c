/* Stands in for ssh.exe and mstsc.exe: writes its command line into the file that TOCTOC_RAN names. */
#include <stdio.h>
#include <stdlib.h>
#include <windows.h>

int main(void) {
    FILE *ran = fopen(getenv("TOCTOC_RAN"), "w");
    return ran == NULL || fputs(GetCommandLineA(), ran) < 0 || fclose(ran) != 0;
}

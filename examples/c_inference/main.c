/* Classifies images of pixels 0 to 255, [channels][height][width] each, that follow each other on standard input; prints
 * a class for each. Only this file uses stdio: net.c and net.h come from `ndsnn export RUN --format c -o net`. */
#include <stdio.h>

#include "net.h"

int main(void)
{
    static net_context context;
    static uint8_t pixels[NET_INPUTS];
    float logits[NET_LOGITS];
    while (fread(pixels, sizeof pixels, 1, stdin) == 1) {
        int best = 0;
        net_run_pixels(&context, pixels, logits);
        for (int i = 1; i < NET_LOGITS; i++) {
            if (logits[i] > logits[best]) {
                best = i;
            }
        }
        printf("%d\n", best);
    }
    return 0;
}

/* Calls an API with a token from bearerd, and once more with a newer one if it is refused.
 *
 * usage: get_token URL [ACCOUNT]
 * build: cc get_token.c -o get_token $(pkg-config --cflags --libs libsystemd libcurl)
 */
#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-bus.h>

#define NAME "org.bearerd.Broker1"
#define PATH "/org/bearerd/Broker1"

/* The token, for the caller to free; NULL with the reason printed. */
static char *get_token(sd_bus *bus, const char *account) {
    sd_bus_error error = SD_BUS_ERROR_NULL;
    sd_bus_message *reply = NULL;
    const char *token = NULL;
    char *copy = NULL;
    int r = sd_bus_call_method(bus, NAME, PATH, NAME, "GetToken", &error, &reply, "s", account);
    if (r < 0)
        /* error.name is for programs, the message for people: it ends with what to do. */
        fprintf(stderr, "%s\n", error.message ? error.message : strerror(-r));
    else if (sd_bus_message_read(reply, "s", &token) >= 0)
        copy = strdup(token);
    sd_bus_error_free(&error);
    sd_bus_message_unref(reply);
    return copy;
}

/* Whether there is a newer token. */
static int reject_token(sd_bus *bus, const char *account, const char *token) {
    sd_bus_message *reply = NULL;
    int renewed = 0;
    if (sd_bus_call_method(bus, NAME, PATH, NAME, "RejectToken", NULL, &reply, "ss", account, token) >= 0)
        sd_bus_message_read(reply, "b", &renewed);
    sd_bus_message_unref(reply);
    return renewed;
}

static size_t discard(char *data, size_t size, size_t count, void *to) {
    (void)data, (void)to;
    return size * count;
}

/* The status of the answer; 0 without one. */
static long call(const char *url, const char *token) {
    long status = 0;
    CURL *curl = curl_easy_init();
    if (!curl)
        return 0;
    curl_easy_setopt(curl, CURLOPT_URL, url);
    curl_easy_setopt(curl, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
    curl_easy_setopt(curl, CURLOPT_XOAUTH2_BEARER, token);
    curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, discard);
    if (curl_easy_perform(curl) == CURLE_OK)
        curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &status);
    curl_easy_cleanup(curl);
    return status;
}

int main(int argc, char **argv) {
    if (argc < 2) {
        fprintf(stderr, "usage: %s URL [ACCOUNT]\n", argv[0]);
        return 2;
    }
    const char *account = argc > 2 ? argv[2] : "";
    sd_bus *bus = NULL;
    if (sd_bus_default_user(&bus) < 0) {
        fprintf(stderr, "no session bus\n");
        return 1;
    }
    char *token = get_token(bus, account);
    long status = token ? call(argv[1], token) : 0;
    if (status == 401 && reject_token(bus, account, token)) {
        free(token);
        token = get_token(bus, account);
        status = token ? call(argv[1], token) : 0;
    }
    free(token);
    sd_bus_unref(bus);
    if (status == 0)
        return 1;
    printf("%ld\n", status);
    return status == 200 ? 0 : 1;
}

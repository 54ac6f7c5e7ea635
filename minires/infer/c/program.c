/* What stands around a model's kernels: weights from a file, and a program. See kernels.c about sections. `model_` and
 * `MODEL_` stand for the model's name.
 */

/*= decode */
/* A number from its bytes in a file, lowest first. */
static real decode(const unsigned char *bytes)
{
    real_bits bits = 0;
    real number;

    for (size_t i = sizeof bits; i-- > 0;)
        bits = bits << 8 | (real_bits)bytes[i];
    memcpy(&number, &bits, sizeof number);
    return number;
}

/*= load needs decode */
static int loaded;

int model_load(const char *path)
{
    unsigned char bytes[512 * sizeof(real)];
    uint32_t table[256], check = 0xffffffffu;      /* CRC-32 as in zip and png */
    size_t have = 0;
    int status = MODEL_OK;

    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int bit = 0; bit < 8; bit++)
            table[i] = table[i] >> 1 ^ (table[i] & 1 ? 0xedb88320u : 0);
    }
    loaded = 0;
    FILE *file = fopen(path, "rb");
    if (!file)
        return MODEL_CANNOT_OPEN;
    while (have < WEIGHTS) {
        const size_t wanted = WEIGHTS - have < 512 ? WEIGHTS - have : 512;
        if (fread(bytes, sizeof(real), wanted, file) != wanted)
            break;
        for (size_t i = 0; i < wanted * sizeof(real); i++)
            check = check >> 8 ^ table[(check ^ bytes[i]) & 0xff];
        for (size_t i = 0; i < wanted; i++)
            weights[have + i] = decode(bytes + i * sizeof(real));
        have += wanted;
    }
    if (ferror(file))
        status = MODEL_CANNOT_READ;
    else if (have < WEIGHTS || getc(file) != EOF)
        status = MODEL_WRONG_SIZE;
    else if ((check ^ 0xffffffffu) != MODEL_WEIGHTS_CRC32)
        status = MODEL_WRONG_CHECKSUM;
    fclose(file);
    loaded = status == MODEL_OK;
    return status;
}

const char *model_message(int status)
{
    switch (status) {
    case MODEL_OK:
        return "no error";
    case MODEL_NOT_LOADED:
        return "no weights are loaded: call model_load first";
    case MODEL_CANNOT_OPEN:
        return "cannot be opened";
    case MODEL_CANNOT_READ:
        return "cannot be read";
    case MODEL_WRONG_SIZE:
        return "is no weights file of this model: it has another size";
    case MODEL_WRONG_CHECKSUM:
        return "is damaged, or of another export: its checksum is not the one in the program";
    default:
        return "unknown status";
    }
}

/*= main_start */
static real input[MODEL_INPUT_SIZE], output[MODEL_OUTPUT_SIZE];

/*= raw needs main_start decode */
/* MODEL_INPUT_SIZE numbers, lowest byte first, of which `known` bytes are read already. 1 on success, else 0 and a message. */
static int read_raw(FILE *file, const char *path, const unsigned char *start, size_t known)
{
    unsigned char bytes[sizeof(real)];
    size_t used = 0;

    for (size_t i = 0; i < MODEL_INPUT_SIZE; i++) {
        for (size_t j = 0; j < sizeof bytes; j++) {
            const int byte = used < known ? start[used++] : getc(file);
            if (byte == EOF) {
                fprintf(stderr, "%s: ends early: the model takes %lu numbers of %lu bytes\n", path,
                        (unsigned long)MODEL_INPUT_SIZE, (unsigned long)sizeof(real));
                return 0;
            }
            bytes[j] = (unsigned char)byte;
        }
        input[i] = decode(bytes);
    }
    if (used < known || getc(file) != EOF) {
        fprintf(stderr, "%s: goes on behind the %lu numbers of %lu bytes that the model takes\n", path,
                (unsigned long)MODEL_INPUT_SIZE, (unsigned long)sizeof(real));
        return 0;
    }
    return 1;
}

/*= image needs main_start */
static int is_space(int c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

/* The header's next number, behind white space and comments; -1 where there is none, or one of more than 8 digits. `c` is
 * the character that was read last, before and after. */
static long header_number(FILE *file, int *c)
{
    long number = 0;
    int digits = 0;

    while (is_space(*c) || *c == '#') {
        if (*c == '#')
            while (*c != '\n' && *c != '\r' && *c != EOF)
                *c = getc(file);
        else
            *c = getc(file);
    }
    for (; *c >= '0' && *c <= '9'; *c = getc(file)) {
        if (++digits > 8)
            return -1;
        number = 10 * number + (*c - '0');
    }
    return digits ? number : -1;
}

/* A PPM (P6: red, green, blue) or PGM (P5: grey) image whose first three characters are `start`, as the model's input:
 * (sample / largest - mean) / std. Grey counts for all three channels. 1 on success, else 0 and a message. */
static int read_image(FILE *file, const char *path, const unsigned char *start)
{
    const size_t samples = start[1] == '6' ? 3 : 1;
    int c = start[2];
    const long width = header_number(file, &c), height = header_number(file, &c), largest = header_number(file, &c);

    if (width < 1 || height < 1 || largest < 1 || largest > 65535 || !is_space(c)) {
        fprintf(stderr, "%s: has a bad header: after P%c it needs width, height and largest sample (1 to 65535)\n", path,
                start[1]);
        return 0;
    }
    if ((size_t)width != MODEL_WIDTH || (size_t)height != MODEL_HEIGHT) {
        fprintf(stderr, "%s: has %ld x %ld pixels, the model takes %lu x %lu: resize or crop the image first\n", path, width,
                height, (unsigned long)MODEL_WIDTH, (unsigned long)MODEL_HEIGHT);
        return 0;
    }
    if (samples > MODEL_CHANNELS) {
        fprintf(stderr, "%s: has colours, the model takes grey: convert the image to P5 first\n", path);
        return 0;
    }
    for (size_t p = 0; p < MODEL_HEIGHT * MODEL_WIDTH; p++)
        for (size_t k = 0; k < samples; k++) {
            int sample = getc(file);
            if (largest > 255 && sample != EOF) {
                const int low = getc(file);
                sample = low == EOF ? EOF : 256 * sample + low;
            }
            if (sample == EOF) {
                fprintf(stderr, "%s: ends early, in row %lu of %ld\n", path, (unsigned long)(p / MODEL_WIDTH + 1), height);
                return 0;
            }
            if (sample > largest) {
                fprintf(stderr, "%s: has a sample of %d; its header says at most %ld\n", path, sample, largest);
                return 0;
            }
            for (size_t channel = k; channel < (samples == 1 ? MODEL_CHANNELS : k + 1); channel++)
                input[channel * MODEL_HEIGHT * MODEL_WIDTH + p] =
                    (real)(((double)sample / (double)largest - mean[channel]) / std[channel]);
        }
    if (getc(file) != EOF) {
        fprintf(stderr, "%s: goes on behind the image\n", path);
        return 0;
    }
    return 1;
}

/*= no_image */
static int read_image(FILE *file, const char *path, const unsigned char *start)
{
    (void)file;
    fprintf(stderr, "%s: is a P%c image, and this model takes none: give raw numbers (with --raw if these are some)\n", path,
            start[1]);
    return 0;
}

/*= numbers needs main_start */
/* Every output with all its digits, one a line. */
static int show_numbers(void)
{
    for (size_t i = 0; i < MODEL_OUTPUT_SIZE; i++)
        printf("%.*g\n", sizeof(real) == 4 ? 9 : 17, (double)output[i]);
    return 1;
}

/*= top needs main_start */
enum { TOP = MODEL_OUTPUT_SIZE < 5 ? MODEL_OUTPUT_SIZE : 5 };

/* The most probable classes. 1 on success, 0 and a message where the outputs are not finite. */
static int show(const char *path)
{
    size_t best[TOP + 1];
    size_t found = 0;
    double sum = 0;

    for (size_t i = 0; i < MODEL_OUTPUT_SIZE; i++) {
        if (!isfinite(output[i])) {
            fprintf(stderr, "%s: output %lu is %g: there are no probabilities\n", path, (unsigned long)i, (double)output[i]);
            return 0;
        }
        size_t place = found;       /* insertion into a short sorted list; of equals the first stays in front */
        for (; place > 0 && output[i] > output[best[place - 1]]; place--)
            best[place] = best[place - 1];
        best[place] = i;
        if (found < TOP)
            found++;
    }
    for (size_t i = 0; i < MODEL_OUTPUT_SIZE; i++)
        sum += exp((double)output[i] - (double)output[best[0]]);
    printf("%s\n", path);
    for (size_t i = 0; i < TOP; i++) {
        const double logit = (double)output[best[i]];
        const double probability = ENDS_IN_SOFTMAX ? logit : exp(logit - (double)output[best[0]]) / sum;
#ifdef MODEL_CLASSES
        printf("%8.4f  %s\n", probability, model_classes[best[i]]);
#else
        printf("%8.4f  class %lu\n", probability, (unsigned long)best[i]);
#endif
    }
    return 1;
}

/*= no_top */
static int show(const char *path)
{
    printf("%s\n", path);
    return show_numbers();
}

/*= main */
/* 1 if the input is read. What begins like an image is one, unless `raw` is asked for. */
static int read_input(const char *path, int raw)
{
    unsigned char start[3];
    FILE *file = fopen(path, "rb");
    int good = 0;

    if (!file) {
        fprintf(stderr, "%s: cannot be opened: %s\n", path, strerror(errno));
        return 0;
    }
    const size_t known = fread(start, 1, sizeof start, file);
    const int named = known == 3 && start[0] == 'P' && start[1] >= '1' && start[1] <= '7'
        && (start[2] == '#' || start[2] == '\n' || start[2] == '\r' || start[2] == ' ' || start[2] == '\t');
    if (ferror(file))
        fprintf(stderr, "%s: cannot be read: %s\n", path, strerror(errno));
    else if (raw || !named)
        good = read_raw(file, path, start, known);
    else if (start[1] == '5' || start[1] == '6')
        good = read_image(file, path, start);
    else
        fprintf(stderr, "%s: is a P%c image; P5 and P6 are read (or, with --raw, raw numbers)\n", path, start[1]);
    fclose(file);
    return good;
}

static int usage(const char *program)
{
    fprintf(stderr,
            "usage: %s [--raw] [--logits] "
#ifdef MODEL_WEIGHTS_FILE
            "[--weights FILE] "
#endif
            "FILE...\n"
            "  FILE      an image (P5 or P6) or the model's %lu inputs as raw numbers of %lu bytes\n"
            "  --raw     raw numbers, even if they begin like an image\n"
            "  --logits  print every output, one a line\n",
            program, (unsigned long)MODEL_INPUT_SIZE, (unsigned long)sizeof(real));
    return 2;
}

/* Exit status: 0 if all went well, 1 if a file did not, 2 if the arguments are wrong. */
int main(int argc, char **argv)
{
    int raw = 0, logits = 0, status = 0, i = 1;
#ifdef MODEL_WEIGHTS_FILE
    const char *from = MODEL_WEIGHTS_FILE;
#endif

    for (; i < argc && argv[i][0] == '-' && argv[i][1] == '-'; i++) {
        if (!strcmp(argv[i], "--")) {
            i++;
            break;
        }
        if (!strcmp(argv[i], "--raw"))
            raw = 1;
        else if (!strcmp(argv[i], "--logits"))
            logits = 1;
#ifdef MODEL_WEIGHTS_FILE
        else if (!strcmp(argv[i], "--weights") && i + 1 < argc)
            from = argv[++i];
#endif
        else
            return usage(argv[0]);
    }
    if (i >= argc)
        return usage(argc > 0 ? argv[0] : "model");
#ifdef MODEL_WEIGHTS_FILE
    const int problem = model_load(from);
    if (problem != MODEL_OK) {
        fprintf(stderr, "%s: %s\n", from, model_message(problem));
        return 1;
    }
#endif
    for (; i < argc; i++) {
        if (!read_input(argv[i], raw)) {
            status = 1;
            continue;
        }
        model_run(input, output);
        if (!(logits ? show_numbers() : show(argv[i])))
            status = 1;
    }
    if (fflush(stdout) || ferror(stdout)) {
        fprintf(stderr, "the results could not be written\n");
        status = 1;
    }
    return status;
}

/* The least that a command can be: what `exec` itself costs, and nothing else. */
int main(void) { return 0; }

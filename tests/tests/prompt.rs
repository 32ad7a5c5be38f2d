//! The interactive prompt of `gleaner sql`, on a terminal that Python's `pty` gives it.
#![cfg(unix)]

use std::path::Path;

use gleaner_tests::program::{command_in, ended, program};
use gleaner_tests::small;

/// Runs a program on a terminal: for each pair of arguments waits for the first text, then types the
/// second. Prints what the terminal showed; exits as the program did.
const TERMINAL: &str = r#"
import os, pty, select, sys, time
program, typed = sys.argv[1:4], sys.argv[4:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TERM"] = "xterm"
    os.execv(program[0], program)
shown, seen, deadline = b"", 0, time.monotonic() + 120
def read():
    global shown
    if not select.select([terminal], [], [], 1)[0]:
        return True
    try:
        part = os.read(terminal, 65536)
    except OSError:
        part = b""
    shown += part
    return bool(part)
for wait, text in zip(typed[::2], typed[1::2]):
    while (at := shown.find(wait.encode(), seen)) < 0:
        if not read() or time.monotonic() > deadline:
            sys.exit(f"{wait!r} never came after {shown[seen:]!r}")
    seen = at + len(wait.encode())
    os.write(terminal, text.encode())
while read() and time.monotonic() < deadline:
    pass
_, status = os.waitpid(pid, 0)
sys.stdout.write(shown.decode(errors="replace"))
sys.exit(os.waitstatus_to_exitcode(status))
"#;

/// What is typed before it comes may be thrown away.
const PROMPT: &str = "gleaner> ";
const UP: &str = "\x1b[A";

/// What a terminal shows of a session with the prompt.
fn session(directory: &Path, typed: &[(&str, &str)]) -> String {
    let mut command = command_in(directory, Path::new("python3"));
    command
        .args(["-c", TERMINAL])
        .arg(program())
        .args(["sql", "out"]);
    command.args(typed.iter().flat_map(|(wait, text)| [*wait, *text]));
    command.env("XDG_STATE_HOME", directory.join("state"));
    ended(&mut command).expect(0).stdout
}

#[test]
fn the_prompt_keeps_its_history_from_session_to_session() {
    let (workspace, _) = small::workspace();
    let _ = workspace.run(&[]).expect(0);
    let directory = workspace.path();
    let shown = session(
        directory,
        &[
            (PROMPT, "SELECT 40 + 2\r"),
            // A statement over two lines is one entry.
            ("...> ", "  AS answer;\r"),
            ("42", ""),
            (PROMPT, "SELECT nothing FROM nowhere;\r"),
            ("there is no table nowhere", ""),
            (PROMPT, "SELECT count(*) AS n FROM weights;\r"),
            ("122", ""),
            (PROMPT, "\\q\r"),
        ],
    );
    assert!(shown.contains("11 tables; \\d lists them"), "{shown}");
    let kept = std::fs::read_to_string(directory.join("state/gleaner/sql_history")).unwrap();
    assert!(
        kept.contains("SELECT count(*) AS n FROM weights;"),
        "{kept}"
    );
    assert!(!kept.contains("\\q"), "{kept}");

    // The next session goes back to the first of three statements, and runs it again.
    let shown = session(
        directory,
        &[
            (PROMPT, UP),
            ("weights;", UP),
            ("nowhere;", UP),
            ("answer;", "\r"),
            ("42", ""),
            (PROMPT, "\\q\r"),
        ],
    );
    assert!(shown.contains("answer"), "{shown}");
}

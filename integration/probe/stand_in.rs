//! In the place of egress-init, with one of its protections taken away: what the tests must see.
//!
//! Compiled with `--cfg stand_in`, the protection's name in `INTEGRATION_WITHOUT` and the real
//! program, which is carried along, in `EGRESS_INIT_BIN`.

use std::{
    env,
    ffi::{CString, c_char, c_int, c_uint},
    fs::File,
    io::Write,
    os::{
        fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::Path,
    process::{Command, exit},
};

const WITHOUT: &str = env!("INTEGRATION_WITHOUT");
const REAL: &[u8] = include_bytes!(env!("EGRESS_INIT_BIN"));
const SENTINEL: &str = "/etc/beacon-code/firewall.ready";

/// Returns where this program is called by another name, as the probe that it also is.
pub fn main() {
    let mut words = env::args();
    if !words
        .next()
        .is_some_and(|name| name.ends_with("egress-init"))
    {
        return;
    }
    let words: Vec<String> = words.collect();
    let dashes = words.iter().position(|word| word == "--");
    let (options, command) = words.split_at(dashes.unwrap_or(words.len()));
    let command = command.get(1..).unwrap_or_default();
    let action = options.first().map_or("", String::as_str);
    let is_start = !command.is_empty() && action != "check";
    match WITHOUT {
        // Nothing is done at all.
        "firewall" if is_start || matches!(action, "check" | "apply") => plain(command),
        // The predecessor's hole: a sentinel that is there is believed.
        "restart" if is_start && Path::new(SENTINEL).exists() => plain(command),
        "check" if action == "check" => plain(command),
        // DNS stays open.
        "dns" if is_start => {
            become_real(&[&["--dns".into(), "system".into()], &words[..]].concat())
        }
        // The rules, but not what comes after them.
        "privileges" if is_start => {
            let dns: &[String] = if options.iter().any(|word| word == "--dns") {
                &[]
            } else {
                &["--dns".into(), "pinned".into()]
            };
            match real(&[&["apply".into()], dns, options].concat()).status() {
                Ok(status) if status.success() => plain(command),
                Ok(status) => exit(status.code().unwrap_or(125)),
                Err(error) => panic!("{error}"),
            }
        }
        // A start that fails is no reason not to run the command.
        "fail-closed" if is_start => match real(&words).status() {
            Ok(status) if status.code() == Some(125) => plain(command),
            Ok(status) => exit(status.code().unwrap_or(125)),
            Err(error) => panic!("{error}"),
        },
        _ => become_real(&words),
    }
}

fn plain(command: &[String]) -> ! {
    let Some((program, arguments)) = command.split_first() else {
        exit(0);
    };
    panic!("{}", Command::new(program).args(arguments).exec())
}

fn become_real(words: &[String]) -> ! {
    panic!("{}", real(words).exec())
}

/// The program from memory: the root file system may be read-only.
fn real(words: &[String]) -> Command {
    unsafe extern "C" {
        fn memfd_create(name: *const c_char, flags: c_uint) -> c_int;
        fn fcntl(fd: c_int, command: c_int, flags: c_int) -> c_int;
    }
    const F_SETFD: c_int = 2;
    let name = CString::new("egress-init").expect("no NUL");
    // SAFETY: the name ends in NUL; the descriptor, if any, becomes the file's own.
    let mut file = unsafe {
        match memfd_create(name.as_ptr(), 0) {
            -1 => panic!("{}", std::io::Error::last_os_error()),
            fd => File::from_raw_fd(fd),
        }
    };
    file.write_all(REAL).expect("memory");
    // What is open for writing is not executed, so it is opened anew for reading.
    let readable = File::open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("/proc");
    drop(file);
    let readable: OwnedFd = readable.into();
    // SAFETY: the descriptor stays open until exec, and through it.
    unsafe {
        fcntl(readable.as_raw_fd(), F_SETFD, 0);
    }
    let path = format!("/proc/self/fd/{}", readable.into_raw_fd());
    let mut command = Command::new(path);
    command.arg0("egress-init").args(words);
    command
}

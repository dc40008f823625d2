//! The process above the command, or beside it with `apply --watch`: its memory, its descriptors,
//! its sockets, and what a start may have left where all processes reach it.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::AsRawFd,
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    time::Duration,
};

use nix::libc;

use super::{Attempt, Context, Evidence, privileges::keeper, send_anything};
use crate::{
    stage::{QUEUES, STATUS_SOCKET, bystander},
    sys as calls,
};

pub fn attempts() -> Vec<Attempt> {
    let hold = |name, body| {
        Attempt::new("supervisor", name, body)
            .privileged()
            .evidence(Evidence::Hold)
    };
    let rules = |name, body| Attempt::new("supervisor", name, body);
    vec![
        hold("its memory written", |_| overwrite(keeper()?)),
        hold("a privileged neighbour's memory written", |_| {
            overwrite(bystander()?)
        }),
        hold("its descriptors by /proc", |_| descriptors(keeper()?)),
        hold("its environment, folders and state by /proc", |_| {
            state(keeper()?)
        }),
        hold("what it has in common with others (kcmp)", |_| {
            compare(keeper()?)
        }),
        hold(
            "a signal that ends it, by every call",
            |_| signal(keeper()?),
        ),
        hold("its limits (prlimit)", |_| {
            // With neither new limits nor a place for the old ones the permission is all that is
            // asked for.
            let arguments = [keeper()?.into(), 7, 0, 0, 0];
            calls::numbers(libc::SYS_prlimit64, arguments).map(drop)
        }),
        hold("the kernel's page faults held up (userfaultfd)", |_| {
            faults()
        }),
        hold("System V objects that the start left", |_| system_v()),
        hold("message queues that the start left", |_| queues()),
        rules("anything said to its status socket", |c| {
            say(c, || UnixStream::connect(STATUS_SOCKET))
        }),
        rules("anything said to the lock for starts", |c| {
            say(c, || to_name("egress-init")).and(say(c, || to_name("egress-init-keeper")))
        }),
        Attempt::new("supervisor", "its status socket replaced", replace)
            .privileged()
            .evidence(Evidence::State)
            .of_user(),
    ]
}

/// Writes a word where it is, by each of the two ways: nothing has changed afterwards.
fn overwrite(pid: i32) -> io::Result<()> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let start = maps
        .lines()
        .filter(|line| line.contains(" rw"))
        .find_map(|line| usize::from_str_radix(line.split('-').next()?, 16).ok())
        .ok_or_else(|| io::Error::other("nothing of it can be written"))?;
    let by_call =
        calls::read_memory(pid, start).and_then(|word| calls::write_memory(pid, start, word));
    let by_file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(format!("/proc/{pid}/mem"))
        .and_then(|mut memory| {
            let mut word = [0; 8];
            memory.seek(SeekFrom::Start(start as u64))?;
            memory.read_exact(&mut word)?;
            memory.seek(SeekFrom::Start(start as u64))?;
            memory.write_all(&word)
        });
    by_call.or(by_file)
}

/// To see what one is would be enough: to open it gives a descriptor of one's own. Their numbers
/// alone, which uid 0 may list, say nothing.
fn descriptors(pid: i32) -> io::Result<()> {
    let mut last = Err(io::Error::other("it has none"));
    for fd in 0..64 {
        let path = format!("/proc/{pid}/fd/{fd}");
        last = fs::read_link(&path)
            .map(drop)
            .or_else(|_| File::open(&path).map(drop))
            .or_else(|_| fs::read(format!("/proc/{pid}/fdinfo/{fd}")).map(drop));
        if last.is_ok() {
            break;
        }
    }
    last
}

fn state(pid: i32) -> io::Result<()> {
    let mut last = Err(io::Error::other("there is nothing"));
    for name in [
        "environ",
        "auxv",
        "maps",
        "io",
        "syscall",
        "stack",
        "personality",
    ] {
        // Some can be opened by everybody and are empty for those who may not read them.
        last = fs::read(format!("/proc/{pid}/{name}")).and_then(|content| {
            if content.is_empty() {
                Err(io::Error::from_raw_os_error(libc::EACCES))
            } else {
                Ok(())
            }
        });
        if last.is_ok() {
            return last;
        }
    }
    for name in ["root", "cwd", "map_files", "exe"] {
        let path = format!("/proc/{pid}/{name}");
        // Whoever may open a folder may not be allowed to read it.
        last = fs::read_dir(&path)
            .and_then(|mut entries| entries.next().transpose())
            .map(drop)
            .or_else(|_| File::open(&path).and_then(|mut file| file.read(&mut [0]).map(drop)));
        if last.is_ok() {
            return last;
        }
    }
    last
}

/// Files, memory, descriptor tables: which are the same says where things are in the kernel.
fn compare(pid: i32) -> io::Result<()> {
    let own = i64::from(std::process::id());
    let mut last = Ok(());
    for kind in 0..8 {
        last = calls::numbers(libc::SYS_kcmp, [pid.into(), own, kind, 0, 0]).map(drop);
        if last.is_ok() {
            return last;
        }
    }
    last
}

/// Signal 0 asks for the permission alone.
fn signal(pid: i32) -> io::Result<()> {
    let number = i64::from(pid);
    let by_number = calls::numbers(libc::SYS_kill, [number, 0, 0, 0, 0]);
    let by_thread = calls::numbers(libc::SYS_tkill, [number, 0, 0, 0, 0]);
    let by_group = calls::numbers(libc::SYS_tgkill, [number, number, 0, 0, 0]);
    let by_descriptor = calls::numbers(libc::SYS_pidfd_open, [number, 0, 0, 0, 0]).and_then(|fd| {
        let fd = calls::owned(fd);
        calls::numbers(
            libc::SYS_pidfd_send_signal,
            [fd.as_raw_fd().into(), 0, 0, 0, 0],
        )
    });
    by_number
        .or(by_thread)
        .or(by_group)
        .or(by_descriptor)
        .map(drop)
}

/// Of the kernel's own accesses too, which who attacks it waits for; those of user space alone
/// anybody may have. The device is not looked at: no container has it.
fn faults() -> io::Result<()> {
    let variable = "/proc/sys/vm/unprivileged_userfaultfd";
    if fs::read_to_string(variable).is_ok_and(|value| value.trim() == "1") {
        return Err(io::Error::other("everybody may on this machine"));
    }
    let fd = calls::numbers(libc::SYS_userfaultfd, [0; 5])?;
    drop(calls::owned(fd));
    Ok(())
}

/// Below the line of headings, in the namespace of the command.
fn system_v() -> io::Result<()> {
    for kind in ["shm", "sem", "msg"] {
        let table = fs::read_to_string(format!("/proc/sysvipc/{kind}"))?;
        if table.lines().nth(1).is_some() {
            return Ok(());
        }
    }
    Err(io::Error::other("there is none"))
}

fn queues() -> io::Result<()> {
    match fs::read_dir(QUEUES)?.next() {
        Some(_) => Ok(()),
        None => Err(io::Error::other("there is none")),
    }
}

/// The entry of a process 1 that is no supervisor: what a start must not leave.
pub fn leave_objects() {
    // IPC_PRIVATE, and everybody may.
    let _ = calls::numbers(libc::SYS_shmget, [0, 4096, 0o1666, 0, 0]);
    let _ = calls::numbers(libc::SYS_semget, [0, 1, 0o1666, 0, 0]);
    let _ = calls::numbers(libc::SYS_msgget, [0, 0o1666, 0, 0, 0]);
    let _ = calls::message_queue(c"escape");
}

fn to_name(name: &str) -> io::Result<UnixStream> {
    UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
}

/// Whatever it may take for an order, from many at once, before anything is sent to where nothing
/// leads.
fn say(c: &Context, connect: impl Fn() -> io::Result<UnixStream>) -> io::Result<()> {
    let to = c.to();
    let words = [
        format!("GET /{} HTTP/1.1\r\nHost: {}\r\n\r\n", c.token, c.token),
        format!(
            "{{\"allow\":\"{to}\",\"reload\":true,\"token\":\"{}\"}}\n",
            c.token
        ),
        format!(
            "allow {to}\nreload\nstop\nresolve {}.tunnel.example.net\n",
            c.token
        ),
        c.payload().escape_ascii().to_string().repeat(2000),
        String::from("\0").repeat(4096),
    ];
    let mut all = Vec::new();
    for word in words.iter().cycle().take(40) {
        let Ok(mut stream) = connect() else {
            break;
        };
        stream.set_nonblocking(true)?;
        let _ = stream.write_all(word.as_bytes());
        let _ = stream.read(&mut [0; 256]);
        // Half of them hang up in the middle of an answer, half wait for ever.
        if all.len() % 2 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Read);
        }
        all.push(stream);
    }
    std::thread::sleep(Duration::from_millis(5));
    send_anything(c)
}

fn replace(_: &Context) -> io::Result<()> {
    match fs::remove_file(STATUS_SOCKET) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(STATUS_SOCKET)?;
    drop(listener);
    Ok(())
}

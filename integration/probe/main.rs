//! The other side, and the command, of the tests in containers: std alone, so that `rustc` makes a
//! static program of it that runs in an image without anything else. `integration/lib.sh` builds
//! it; [`stand_in`] takes the place of egress-init where a test has to be seen to fail.
//!
//! The arguments are steps, done in their order; each prints a line. As the other side:
//!
//! - `serve PORT...` echoes TCP and UDP on these ports, in both families, and prints what arrives
//! - `dns NAME=ADDRESS[,ADDRESS]...` is a DNS server, see [`dns`]
//!
//! As the command: the attempts of [`attempts`] (`tcp`, `udp`, `dns-query` and so on), and
//!
//! - `listen PORT` serves in the background
//! - `hold ADDRESS:PORT` keeps a connection in use in the background: `hold WHAT up`, `hold WHAT cut: ERROR`
//! - `wait` for ever; `until-signal` until a signal of which it prints the number; `tick` counts
//! - `exit CODE`

mod attempts;
mod dns;
mod serve;
#[cfg(stand_in)]
mod stand_in;

use std::{
    env,
    ffi::c_int,
    process::exit,
    sync::atomic::{AtomicI32, Ordering},
    thread,
    time::Duration,
};

fn main() {
    #[cfg(stand_in)]
    stand_in::main();
    let mut words = env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "serve" => {
                for port in words.by_ref() {
                    serve::listen(port.parse().expect("a port"));
                }
                println!("serving");
                wait();
            }
            "dns" => dns::serve(words.by_ref()),
            "listen" => {
                let port = words.next().expect("a port");
                serve::listen(port.parse().expect("a port"));
            }
            "hold" => attempts::hold(words.next().expect("an address")),
            "wait" => wait(),
            "until-signal" => until_signal(),
            "tick" => tick(),
            "exit" => exit(words.next().expect("a code").parse().expect("a code")),
            attempt => attempts::make(attempt, &mut words),
        }
    }
}

fn wait() -> ! {
    loop {
        thread::park();
    }
}

fn tick() -> ! {
    for count in 1.. {
        println!("tick {count}");
        thread::sleep(Duration::from_millis(100));
    }
    unreachable!("the count has no end")
}

static RECEIVED: AtomicI32 = AtomicI32::new(0);

extern "C" fn received(signal: c_int) {
    RECEIVED.store(signal, Ordering::Relaxed);
}

/// A process 1 has no signal but those that it handles.
fn until_signal() {
    const SIGHUP: c_int = 1;
    const SIGINT: c_int = 2;
    const SIGUSR1: c_int = 10;
    const SIGTERM: c_int = 15;
    unsafe extern "C" {
        fn signal(number: c_int, handler: extern "C" fn(c_int)) -> usize;
    }
    for number in [SIGHUP, SIGINT, SIGUSR1, SIGTERM] {
        // SAFETY: the handler only stores a number.
        unsafe { signal(number, received) };
    }
    println!("waiting as process {}", std::process::id());
    while RECEIVED.load(Ordering::Relaxed) == 0 {
        thread::sleep(Duration::from_millis(5));
    }
    println!("signal {}", RECEIVED.load(Ordering::Relaxed));
}

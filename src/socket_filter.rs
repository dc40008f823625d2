//! The seccomp filter of the command: sockets that nftables never sees are refused.
//!
//! A netfilter policy covers IP. `AF_PACKET`, `AF_VSOCK` and others pass beside it, some without
//! any capability, so the command makes sockets of a few families only. `io_uring` makes sockets
//! behind a filter's back, and a foreign ABI numbers its calls differently: both look absent.
//! The answer is an error number, never a kill: a program that tries goes on without.
//!
//! seccompiler compiles the rules. What it does by itself with a foreign ABI is to kill, it does not
//! know x32, and its programs have one error number each, so a preamble answers first for what is
//! to look absent. Nothing but sockets is filtered: this is no sandbox, but the part of the firewall that nftables cannot be.

use crate::sys::process;
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch, sock_filter,
};
use std::{env, fmt, io, str::FromStr};
use thiserror::Error;

/// A socket address family by its number, the first argument of socket(2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family(u8);

impl Family {
    /// What every command may use: sockets that nftables sees, or that stay on this machine.
    pub const DEFAULT: [Self; 4] = [Self(1), Self(2), Self(10), Self(16)];
}

/// Names of families: linux/socket.h without `AF_`.
const NAMES: [(&str, u8); 44] = [
    ("UNIX", 1),
    ("INET", 2),
    ("AX25", 3),
    ("IPX", 4),
    ("APPLETALK", 5),
    ("NETROM", 6),
    ("BRIDGE", 7),
    ("ATMPVC", 8),
    ("X25", 9),
    ("INET6", 10),
    ("ROSE", 11),
    ("DECNET", 12),
    ("NETBEUI", 13),
    ("SECURITY", 14),
    ("KEY", 15),
    ("NETLINK", 16),
    ("PACKET", 17),
    ("ASH", 18),
    ("ECONET", 19),
    ("ATMSVC", 20),
    ("RDS", 21),
    ("SNA", 22),
    ("IRDA", 23),
    ("PPPOX", 24),
    ("WANPIPE", 25),
    ("LLC", 26),
    ("IB", 27),
    ("MPLS", 28),
    ("CAN", 29),
    ("TIPC", 30),
    ("BLUETOOTH", 31),
    ("IUCV", 32),
    ("RXRPC", 33),
    ("ISDN", 34),
    ("PHONET", 35),
    ("IEEE802154", 36),
    ("CAIF", 37),
    ("ALG", 38),
    ("NFC", 39),
    ("VSOCK", 40),
    ("KCM", 41),
    ("QIPCRTR", 42),
    ("SMC", 43),
    ("XDP", 44),
];

/// Why there is no filter.
#[derive(Debug, Error)]
pub enum SocketFilterError {
    /// `--allow-socket-family` with something that is no family.
    #[error("`{0}` is not a socket family")]
    UnknownFamily(String),
    /// The filter cannot be compiled, for this architecture for example.
    #[error("the socket filter cannot be compiled")]
    Compile(#[source] BackendError),
    /// The kernel refuses the filter.
    #[error("the kernel refuses the socket filter")]
    Install(#[source] io::Error),
}

impl SocketFilterError {
    /// What the user can do about it.
    #[must_use]
    pub fn remedy(&self) -> Option<String> {
        Some(match self {
            Self::UnknownFamily(_) => {
                "give a name such as VSOCK, PACKET or BLUETOOTH, or a number from 1 to 255"
                    .to_owned()
            }
            Self::Compile(_) => {
                "use a binary built for x86_64 or aarch64 on that architecture".to_owned()
            }
            Self::Install(_) => {
                "run on a kernel with CONFIG_SECCOMP_FILTER, in a container whose own seccomp \
                 profile allows seccomp(2)"
                    .to_owned()
            }
        })
    }
}

impl From<BackendError> for SocketFilterError {
    fn from(error: BackendError) -> Self {
        Self::Compile(error)
    }
}

impl FromStr for Family {
    type Err = SocketFilterError;

    fn from_str(text: &str) -> Result<Self, SocketFilterError> {
        let unknown = || SocketFilterError::UnknownFamily(text.to_owned());
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let number = text.parse().ok().filter(|number| *number != 0);
            return number.map(Self).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = match upper.strip_prefix("AF_").unwrap_or(&upper) {
            "LOCAL" => "UNIX",
            name => name,
        };
        let known = NAMES.iter().find(|(known, _)| *known == name);
        known.map(|(_, number)| Self(*number)).ok_or_else(unknown)
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match NAMES.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => f.write_str(name),
            None => self.0.fmt(f),
        }
    }
}

/// The compiled filter, as the kernel takes it.
#[derive(Debug)]
pub struct SocketFilter(BpfProgram);

impl SocketFilter {
    /// A filter that lets `families` pass and no others.
    pub fn compile(families: &[Family]) -> Result<Self, SocketFilterError> {
        Self::for_arch(families, TargetArch::try_from(env::consts::ARCH)?)
    }

    fn for_arch(families: &[Family], arch: TargetArch) -> Result<Self, SocketFilterError> {
        // The kernel looks at the low 32 bits of the argument alone.
        let differs = families.iter().map(|family| {
            SeccompCondition::new(
                0,
                SeccompCmpArgLen::Dword,
                SeccompCmpOp::Ne,
                u64::from(family.0),
            )
        });
        let other = SeccompRule::new(differs.collect::<Result<_, _>>()?)?;
        let calls = [libc::SYS_socket, libc::SYS_socketpair];
        let rules = calls.map(|call| (call, vec![other.clone()]));
        let refuse = SeccompAction::Errno(libc::EAFNOSUPPORT.unsigned_abs());
        let compiled: BpfProgram =
            SeccompFilter::new(rules.into(), SeccompAction::Allow, refuse, arch)?.try_into()?;
        let mut program = preamble(arch);
        program.extend(compiled);
        Ok(Self(program))
    }

    /// Puts it on the calling thread, and so on what that thread executes and forks. It takes
    /// `no_new_privs` or `CAP_SYS_ADMIN`; nothing takes it off again.
    pub fn install(&self) -> Result<(), SocketFilterError> {
        process::install_filter(&self.0).map_err(SocketFilterError::Install)
    }
}

/// ENOSYS for `io_uring`, and for the ABIs that a kernel offers beside the native one: i386 and
/// `AArch32` have their own architecture number, x32 has that of `x86_64` and a bit in its call
/// numbers.
fn preamble(arch: TargetArch) -> BpfProgram {
    /// `offsetof(struct seccomp_data, nr)` and `arch`: linux/seccomp.h.
    const NR: u32 = 0;
    const ARCH: u32 = 4;
    /// `__X32_SYSCALL_BIT`: asm/unistd.h of x86. No architecture has native calls above it.
    const X32: u32 = 0x4000_0000;
    /// `io_uring_setup`, `io_uring_enter` and `io_uring_register` on every architecture:
    /// asm-generic/unistd.h.
    const IO_URING: [u32; 3] = [425, 426, 427];
    // linux/bpf_common.h: load a word at a fixed offset, jumps that compare with k, return k.
    const LOAD: u16 = 0x20;
    const IF_EQUAL: u16 = 0x15;
    const IF_AT_LEAST: u16 = 0x35;
    const RETURN: u16 = 0x06;
    // linux/audit.h: the number of the ELF machine, 64 bits, little-endian.
    let native = 0xc000_0000
        | match arch {
            TargetArch::x86_64 => u32::from(libc::EM_X86_64),
            TargetArch::aarch64 => u32::from(libc::EM_AARCH64),
            TargetArch::riscv64 => u32::from(libc::EM_RISCV),
        };
    let enosys = u32::from(SeccompAction::Errno(libc::ENOSYS.unsigned_abs()));
    // A jump skips `jt` instructions if true, `jf` if not.
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD, 0, 0, ARCH),
        step(IF_EQUAL, 0, 5, native),
        step(LOAD, 0, 0, NR),
        step(IF_AT_LEAST, 3, 0, X32),
        step(IF_EQUAL, 2, 0, IO_URING[0]),
        step(IF_EQUAL, 1, 0, IO_URING[1]),
        step(IF_EQUAL, 0, 1, IO_URING[2]),
        step(RETURN, 0, 0, enosys),
    ]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const X86_64: u32 = 0xc000_003e;
    const AARCH64: u32 = 0xc000_00b7;
    const I386: u32 = 0x4000_0003;
    const ARM: u32 = 0x4000_0028;

    /// What the kernel would do: classic BPF over `struct seccomp_data`, the few opcodes in use.
    fn run(program: &BpfProgram, arch: u32, nr: u32, arg0: u64) -> u32 {
        let load = |offset| match offset {
            0 => nr,
            4 => arch,
            16 => (arg0 & 0xffff_ffff) as u32,
            20 => (arg0 >> 32) as u32,
            other => panic!("load at {other}"),
        };
        let (mut pc, mut a) = (0, 0_u32);
        loop {
            let sock_filter { code, jt, jf, k } = program[pc];
            pc += 1;
            let jump = |condition: bool| usize::from(if condition { jt } else { jf });
            match code {
                0x20 => a = load(k),
                0x05 => pc += k as usize,
                0x06 => return k,
                0x15 => pc += jump(a == k),
                0x25 => pc += jump(a > k),
                0x35 => pc += jump(a >= k),
                0x54 => a &= k,
                other => panic!("opcode {other:#x}"),
            }
        }
    }

    fn answer(filter: &SocketFilter, arch: u32, nr: i64, arg0: u64) -> u32 {
        run(&filter.0, arch, u32::try_from(nr).unwrap(), arg0)
    }

    fn for_arch(families: &[Family], arch: TargetArch) -> SocketFilter {
        SocketFilter::for_arch(families, arch).unwrap()
    }

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    fn errno(number: i32) -> u32 {
        libc::SECCOMP_RET_ERRNO | number.unsigned_abs()
    }

    #[test]
    fn four_families_pass_and_no_other() {
        for (arch, native) in [(TargetArch::x86_64, X86_64), (TargetArch::aarch64, AARCH64)] {
            let filter = for_arch(&Family::DEFAULT, arch);
            for family in 0..=u64::from(u8::MAX) {
                let expected = if [1, 2, 10, 16].contains(&family) {
                    ALLOW
                } else {
                    errno(libc::EAFNOSUPPORT)
                };
                for call in [libc::SYS_socket, libc::SYS_socketpair] {
                    assert_eq!(
                        answer(&filter, native, call, family),
                        expected,
                        "family {family}"
                    );
                }
                assert_eq!(answer(&filter, native, libc::SYS_connect, family), ALLOW);
            }
            // The kernel takes an int: what is above it neither hides a family nor spoils one.
            let high = |family: u64| (1 << 32) + family;
            assert_eq!(
                answer(&filter, native, libc::SYS_socket, high(40)),
                errno(libc::EAFNOSUPPORT)
            );
            assert_eq!(answer(&filter, native, libc::SYS_socket, high(2)), ALLOW);
        }
    }

    #[test]
    fn a_family_more_is_one_more() {
        let mut families = Family::DEFAULT.to_vec();
        families.push("VSOCK".parse().unwrap());
        let filter = for_arch(&families, TargetArch::x86_64);
        assert_eq!(answer(&filter, X86_64, libc::SYS_socket, 40), ALLOW);
        assert_eq!(
            answer(&filter, X86_64, libc::SYS_socket, 17),
            errno(libc::EAFNOSUPPORT)
        );
    }

    #[test]
    fn io_uring_is_absent() {
        let filter = for_arch(&Family::DEFAULT, TargetArch::x86_64);
        for call in 424..=428 {
            let expected = if (425..=427).contains(&call) {
                errno(libc::ENOSYS)
            } else {
                ALLOW
            };
            assert_eq!(answer(&filter, X86_64, call, 0), expected);
        }
    }

    #[test]
    fn every_call_of_a_foreign_abi_is_absent_and_never_a_kill() {
        for (arch, native, foreign) in [
            (TargetArch::x86_64, X86_64, I386),
            (TargetArch::aarch64, AARCH64, ARM),
            (TargetArch::aarch64, AARCH64, X86_64),
        ] {
            let filter = for_arch(&Family::DEFAULT, arch);
            for call in 0..512 {
                assert_eq!(answer(&filter, foreign, call, 2), errno(libc::ENOSYS));
                assert_eq!(
                    answer(&filter, native, 0x4000_0000 | call, 2),
                    errno(libc::ENOSYS)
                );
            }
            assert_eq!(answer(&filter, native, libc::SYS_read, 0), ALLOW);
        }
    }

    #[test]
    fn families_by_name_and_number() {
        for (text, number, printed) in [
            ("VSOCK", 40, "VSOCK"),
            ("af_packet", 17, "PACKET"),
            ("local", 1, "UNIX"),
            ("38", 38, "ALG"),
            ("200", 200, "200"),
        ] {
            let family: Family = text.parse().unwrap();
            assert_eq!(family, Family(number));
            assert_eq!(family.to_string(), printed);
        }
        for text in ["", "0", "256", "-1", "AF_", "VSOCKS", "1.5"] {
            let error = text.parse::<Family>().unwrap_err();
            assert!(error.to_string().contains(&format!("`{text}`")), "{error}");
        }
    }
}

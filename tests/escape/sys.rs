//! The system calls that an adversary makes and that neither std nor nix has a safe form for.

#![allow(unsafe_code)]

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd},
    ptr,
};

use nix::libc;

fn checked(returned: libc::c_long) -> io::Result<i64> {
    if returned == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(returned)
    }
}

fn length(octets: &[u8]) -> libc::socklen_t {
    libc::socklen_t::try_from(octets.len()).unwrap()
}

/// connect(2).
pub fn connect(socket: &impl AsRawFd, to: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one slice, which the kernel only reads.
    let returned = unsafe { libc::connect(socket.as_raw_fd(), to.as_ptr().cast(), length(to)) };
    checked(returned.into()).map(drop)
}

/// bind(2).
pub fn bind(socket: &impl AsRawFd, to: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length are those of one slice, which the kernel only reads.
    let returned = unsafe { libc::bind(socket.as_raw_fd(), to.as_ptr().cast(), length(to)) };
    checked(returned.into()).map(drop)
}

/// sendmsg(2) with control messages as octets: see [`control`]. No address where `to` is empty.
pub fn send(
    socket: &impl AsRawFd,
    octets: &[u8],
    flags: i32,
    to: &[u8],
    control: &[u8],
) -> io::Result<usize> {
    let mut slice = libc::iovec {
        iov_base: octets.as_ptr().cast_mut().cast(),
        iov_len: octets.len(),
    };
    // SAFETY: msghdr is plain integers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if !to.is_empty() {
        message.msg_name = to.as_ptr().cast_mut().cast();
        message.msg_namelen = length(to);
    }
    if !control.is_empty() {
        message.msg_control = control.as_ptr().cast_mut().cast();
        message.msg_controllen = control.len() as _;
    }
    // SAFETY: each pointer in the message comes with the length of the slice it is from, and
    // sendmsg only reads them.
    let sent = unsafe {
        libc::sendmsg(
            socket.as_raw_fd(),
            &raw const message,
            flags | libc::MSG_NOSIGNAL,
        )
    };
    checked(sent as libc::c_long).map(|sent| usize::try_from(sent).unwrap())
}

/// One control message (cmsg(3)), padded to the size of a long.
pub fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut octets = (16 + data.len()).to_ne_bytes().to_vec();
    octets.extend(level.to_ne_bytes());
    octets.extend(kind.to_ne_bytes());
    octets.extend(data);
    octets.resize(octets.len().next_multiple_of(8), 0);
    octets
}

/// sendfile(2) from the start of a file.
pub fn send_file(socket: &impl AsRawFd, file: &impl AsRawFd, count: usize) -> io::Result<()> {
    let mut offset = 0;
    // SAFETY: the one pointer is to a local that lives through the call.
    let sent =
        unsafe { libc::sendfile(socket.as_raw_fd(), file.as_raw_fd(), &raw mut offset, count) };
    checked(sent as libc::c_long).map(drop)
}

/// splice(2) of what a pipe holds.
pub fn splice(pipe: &impl AsRawFd, socket: &impl AsRawFd, count: usize) -> io::Result<()> {
    // SAFETY: no pointers but null ones.
    let sent = unsafe {
        libc::splice(
            pipe.as_raw_fd(),
            ptr::null_mut(),
            socket.as_raw_fd(),
            ptr::null_mut(),
            count,
            0,
        )
    };
    checked(sent as libc::c_long).map(drop)
}

/// A system call whose arguments are numbers, and null where it wants a pointer.
pub fn numbers(call: libc::c_long, arguments: [libc::c_long; 5]) -> io::Result<i64> {
    let [a, b, c, d, e] = arguments;
    // SAFETY: the callers of this pass calls that take numbers, or null, which the kernel refuses.
    checked(unsafe { libc::syscall(call, a, b, c, d, e) })
}

/// A descriptor that a call of [`numbers`] returned.
pub fn owned(fd: i64) -> OwnedFd {
    // SAFETY: the kernel has just returned it to the caller, who hands it over.
    unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).unwrap()) }
}

/// What becomes readable when this process has ended, or nothing where it already has.
pub fn watch_process(pid: i32) -> Option<OwnedFd> {
    let arguments = [pid.into(), 0, 0, 0, 0];
    numbers(libc::SYS_pidfd_open, arguments).ok().map(owned)
}

/// Whether it becomes readable in this time.
pub fn wait_readable(fd: &OwnedFd, limit: std::time::Duration) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let mut poll_fds = [PollFd::new(std::os::fd::AsFd::as_fd(fd), PollFlags::POLLIN)];
    let limit = PollTimeout::try_from(limit).unwrap_or(PollTimeout::MAX);
    poll(&mut poll_fds, limit).is_ok_and(|ready| ready > 0)
}

/// A descriptor that this process was started with.
pub fn inherited(fd: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: a duplicate of whatever it is; nobody else owns the duplicate.
    unsafe {
        let copy = checked(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 10).into())?;
        Ok(OwnedFd::from_raw_fd(RawFd::try_from(copy).unwrap()))
    }
}

/// capset(2): every capability, effective, permitted and inheritable.
pub fn take_all_capabilities() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522;
    let header = [VERSION_3, 0];
    let data = [u32::MAX; 6];
    // SAFETY: header and data have the sizes of version 3 (capset(2)); both are only read.
    checked(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) }).map(drop)
}

/// bpf(2), BPF_PROG_LOAD of `r0 = 1; exit`, of this program type.
pub fn load_bpf(kind: u32) -> io::Result<OwnedFd> {
    // BPF_ALU64 | BPF_MOV | BPF_K of 1 to r0, then BPF_JMP | BPF_EXIT.
    let program: [u64; 2] = [0x0000_0001_0000_00b7, 0x95];
    let license = c"GPL";
    let mut attributes = [0_u64; 16];
    attributes[0] = u64::from(kind) | (2 << 32);
    attributes[1] = program.as_ptr() as u64;
    attributes[2] = license.as_ptr() as u64;
    // SAFETY: the attributes point at a program of two instructions and at a C string, all of
    // which live through the call; the size is the array's.
    let fd = checked(unsafe { libc::syscall(libc::SYS_bpf, 5, attributes.as_ptr(), 128) })?;
    Ok(owned(fd))
}

/// perf_event_open(2) of the first processor's clock, for all processes.
pub fn count_everything() -> io::Result<()> {
    // struct perf_event_attr: type PERF_TYPE_SOFTWARE, its size, config PERF_COUNT_SW_CPU_CLOCK.
    let mut attributes = [0_u64; 16];
    attributes[0] = 1 | (128 << 32);
    // SAFETY: the attributes are 128 octets, as they say, and are only read.
    let fd = checked(unsafe {
        libc::syscall(libc::SYS_perf_event_open, attributes.as_ptr(), -1, 0, -1, 0)
    })?;
    drop(owned(fd));
    Ok(())
}

/// ioctl(2), TIOCSTI of one space.
pub fn type_into(terminal: &impl AsRawFd) -> io::Result<()> {
    let space = b' ';
    // SAFETY: the one pointer is to an octet that lives through the call.
    let done = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSTI, &raw const space) };
    checked(done.into()).map(drop)
}

/// request_key(2) with an upcall where the key is not there.
pub fn request_key(kind: &std::ffi::CStr, description: &str) -> io::Result<()> {
    let description = std::ffi::CString::new(description).unwrap();
    // SAFETY: three C strings that live through the call, and the number of a keyring.
    checked(unsafe {
        libc::syscall(
            libc::SYS_request_key,
            kind.as_ptr(),
            description.as_ptr(),
            c"".as_ptr(),
            -4,
        )
    })
    .map(drop)
}

/// Attaches a process as its tracer and lets it go again.
pub fn trace(pid: i32) -> io::Result<()> {
    // SAFETY: PTRACE_SEIZE and PTRACE_DETACH take no pointers that are followed.
    unsafe {
        checked(libc::ptrace(
            libc::PTRACE_SEIZE,
            pid,
            ptr::null_mut::<u8>(),
            ptr::null_mut::<u8>(),
        ))
        .map(drop)
    }
}

/// Reads one word of another process at this address (process_vm_readv(2)).
pub fn read_memory(pid: i32, address: usize) -> io::Result<u64> {
    let mut word = 0_u64;
    let local = libc::iovec {
        iov_base: (&raw mut word).cast(),
        iov_len: 8,
    };
    let remote = libc::iovec {
        iov_base: ptr::without_provenance_mut(address),
        iov_len: 8,
    };
    // SAFETY: the local vector is one word, which is ours; the remote one is not our memory.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    checked(read as libc::c_long)?;
    Ok(word)
}

/// Writes one word of another process at this address (process_vm_writev(2)).
pub fn write_memory(pid: i32, address: usize, word: u64) -> io::Result<()> {
    let local = libc::iovec {
        iov_base: (&raw const word).cast_mut().cast(),
        iov_len: 8,
    };
    let remote = libc::iovec {
        iov_base: ptr::without_provenance_mut(address),
        iov_len: 8,
    };
    // SAFETY: the local vector is one word, which is only read; the remote one is not our memory.
    let written =
        unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    checked(written as libc::c_long).map(drop)
}

/// mq_open(2) of a new queue, which stays.
pub fn message_queue(name: &std::ffi::CStr) -> io::Result<OwnedFd> {
    let flags = libc::O_CREAT | libc::O_RDWR;
    // SAFETY: the name is a C string that lives through the call; no attributes.
    let fd = checked(unsafe {
        libc::syscall(
            libc::SYS_mq_open,
            name.as_ptr(),
            flags,
            0o666,
            ptr::null::<u8>(),
        )
    })?;
    Ok(owned(fd))
}

/// A file of the kind that a pointer to a name makes: memfd_create(2).
pub fn memory_file() -> io::Result<OwnedFd> {
    // SAFETY: the name is a C string that lives through the call.
    let fd = checked(unsafe { libc::memfd_create(c"escape".as_ptr(), 0) }.into())?;
    Ok(owned(fd))
}

/// An `io_uring` with room for a few requests.
pub struct Ring {
    ring: OwnedFd,
    submission: Mapping,
    entries: Mapping,
    completion: Mapping,
    offsets: Offsets,
}

/// Where in their mappings the heads, tails and arrays are (struct `io_uring_params`).
struct Offsets {
    submit_tail: usize,
    submit_mask: usize,
    submit_array: usize,
    complete_head: usize,
    complete_mask: usize,
    complete_entries: usize,
}

struct Mapping {
    start: *mut libc::c_void,
    length: usize,
}

impl Mapping {
    fn new(ring: &OwnedFd, length: usize, offset: i64) -> io::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                ring.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { start, length })
    }

    /// A word of the mapping.
    fn word(&self, offset: usize) -> *mut u32 {
        assert!(offset + 4 <= self.length);
        // SAFETY: within the mapping, which the assertion has just said.
        unsafe { self.start.byte_add(offset).cast() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours and nobody keeps a pointer into it.
        unsafe { libc::munmap(self.start, self.length) };
    }
}

/// One request: the fields of `struct io_uring_sqe` that the attempts use.
#[derive(Default)]
pub struct Request<'a> {
    pub operation: u8,
    pub fd: i32,
    /// `off`, or `addr2`.
    pub offset: u64,
    pub octets: &'a [u8],
    /// Where it is not the length of the octets.
    pub length: Option<u32>,
    pub flags: u32,
}

impl Ring {
    /// io_uring_setup(2) and the mappings that go with it.
    pub fn new() -> io::Result<Self> {
        let mut parameters = [0_u32; 30];
        // SAFETY: struct io_uring_params is 120 octets, and the kernel writes no more.
        let fd = checked(unsafe {
            libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr())
        })?;
        let ring = owned(fd);
        let at = |index: usize| parameters[index] as usize;
        let (submitted, completed) = (at(0), at(1));
        // struct io_sqring_offsets from word 10, struct io_cqring_offsets from word 20.
        let offsets = Offsets {
            submit_tail: at(11),
            submit_mask: at(12),
            submit_array: at(16),
            complete_head: at(20),
            complete_mask: at(22),
            complete_entries: at(25),
        };
        let submission = Mapping::new(&ring, offsets.submit_array + submitted * 4, 0)?;
        let completion = Mapping::new(
            &ring,
            offsets.complete_entries + completed * 16,
            0x0800_0000,
        )?;
        let entries = Mapping::new(&ring, submitted * 64, 0x1000_0000)?;
        Ok(Self {
            ring,
            submission,
            entries,
            completion,
            offsets,
        })
    }

    /// Submits one request, waits for it, and returns what the call it stands for returns.
    pub fn run(&self, request: &Request) -> io::Result<i32> {
        let at = &self.offsets;
        let mut entry = [0_u8; 64];
        entry[0] = request.operation;
        entry[4..8].copy_from_slice(&request.fd.to_ne_bytes());
        entry[8..16].copy_from_slice(&request.offset.to_ne_bytes());
        // Where there are none the kernel wants null.
        let octets = if request.octets.is_empty() {
            0
        } else {
            request.octets.as_ptr() as u64
        };
        entry[16..24].copy_from_slice(&octets.to_ne_bytes());
        let length = u32::try_from(request.octets.len()).unwrap();
        entry[24..28].copy_from_slice(&request.length.unwrap_or(length).to_ne_bytes());
        entry[28..32].copy_from_slice(&request.flags.to_ne_bytes());
        // SAFETY: all offsets are the kernel's own for these mappings; one thread uses the ring,
        // and the octets outlive the request, which is waited for.
        unsafe {
            let tail = *self.submission.word(at.submit_tail);
            let index = tail & *self.submission.word(at.submit_mask);
            let slot = self.entries.word(index as usize * 64).cast::<u8>();
            ptr::copy_nonoverlapping(entry.as_ptr(), slot, 64);
            *self.submission.word(at.submit_array + index as usize * 4) = index;
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            *self.submission.word(at.submit_tail) = tail + 1;
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            // IORING_ENTER_GETEVENTS.
            checked(libc::syscall(
                libc::SYS_io_uring_enter,
                self.ring.as_raw_fd(),
                1,
                1,
                1,
                ptr::null::<u8>(),
                0,
            ))?;
            let head = *self.completion.word(at.complete_head);
            let index = head & *self.completion.word(at.complete_mask);
            let result = *self
                .completion
                .word(at.complete_entries + index as usize * 16 + 8);
            *self.completion.word(at.complete_head) = head + 1;
            let result = result.cast_signed();
            if result < 0 {
                return Err(io::Error::from_raw_os_error(-result));
            }
            Ok(result)
        }
    }
}

/// setxattr(2), where the file system and the namespace allow it.
pub fn set_attribute(path: &str, name: &std::ffi::CStr, value: &[u8]) -> bool {
    let path = std::ffi::CString::new(path).unwrap();
    // SAFETY: two C strings, and a slice with its own length.
    let returned = unsafe {
        libc::setxattr(
            path.as_ptr(),
            name.as_ptr(),
            value.as_ptr().cast(),
            value.len(),
            0,
        )
    };
    returned == 0
}

/// socket(2) by its number of x32, which a filter for the native numbers alone would not know.
pub fn socket_of_x32(family: i32, kind: i32) -> io::Result<OwnedFd> {
    const X32: libc::c_long = 0x4000_0000;
    let fd = numbers(
        X32 | libc::SYS_socket,
        [family.into(), kind.into(), 0, 0, 0],
    )?;
    Ok(owned(fd))
}

/// socket(2) by its number of 32-bit x86, through the gate that is there for such programs.
#[cfg(target_arch = "x86_64")]
pub fn socket_of_i386(family: i32, kind: i32) -> io::Result<OwnedFd> {
    const SOCKET_OF_I386: i64 = 359;
    let returned: i64;
    // SAFETY: a call that takes three numbers; the gate clobbers r8 to r11, and rbx, which the
    // compiler keeps for itself, is put back.
    unsafe {
        std::arch::asm!(
            "xchg {family}, rbx",
            "int 0x80",
            "xchg {family}, rbx",
            family = inout(reg) i64::from(family) => _,
            inlateout("rax") SOCKET_OF_I386 => returned,
            in("rcx") i64::from(kind),
            in("rdx") 0_i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    if returned < 0 {
        return Err(io::Error::from_raw_os_error(
            i32::try_from(-returned).unwrap(),
        ));
    }
    Ok(owned(returned))
}

/// 32-bit ARM has no gate that a 64-bit program could use.
#[cfg(not(target_arch = "x86_64"))]
pub fn socket_of_i386(_family: i32, _kind: i32) -> io::Result<OwnedFd> {
    Err(io::Error::from_raw_os_error(libc::ENOSYS))
}

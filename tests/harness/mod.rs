//! A separate network for each test: a gateway and hosts in anonymous network namespaces, joined by
//! veth pairs.
//!
//! The namespaces have no name. They exist as long as a descriptor or a process refers to them, and
//! processes that still run in one are killed when the test drops it. So nothing is left behind
//! however a test ends, except by SIGKILL. Host `i` has 10.90.i.2 and fd90:i::2; the gateway has
//! 10.90.i.1 and fd90:i::1 on its interface `gw<i>`.

#![allow(unreachable_pub)]

pub mod crowd;
pub mod gate;
pub mod guarded;
pub mod process;
pub mod raw;
pub(crate) mod schema;
pub mod ssh;
pub(crate) mod ssh_keys;
pub mod starter;
pub mod steps;
pub mod terminal;

use std::fs::{self, File, Metadata};
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::process::{Child, Command, Output};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// The time limit for events that must happen, generous enough for a busy machine.
pub const LONG: Duration = Duration::from_secs(10);
/// How long a test waits for something that must not happen.
pub const SHORT: Duration = Duration::from_millis(400);

/// A gateway and the hosts around it.
pub struct Net {
    /// The machine that toctocd guards.
    pub gateway: Space,
    /// The first host.
    pub client: Host,
}

/// A host on its own link to the gateway.
pub struct Host {
    /// Its namespace; its only interface besides lo is `eth0`.
    pub space: Space,
    index: u8,
}

/// A network namespace without a name. Clones are the same namespace.
#[derive(Clone)]
pub struct Space(Arc<NamespaceFile>);

/// The descriptor of a namespace. Dropping it kills every process inside: a daemon in the
/// background, a runner that outlives its daemon, a listener that a test has stopped.
struct NamespaceFile(File);

impl Net {
    /// A gateway with one host. Panics with a remedy if this process may not make namespaces.
    pub fn new() -> Net {
        let gateway = Space::new();
        let client = Host::join(&gateway, 0);
        Net { gateway, client }
    }

    /// One more host, on its own link; `index` 1 to 255, each once.
    pub fn host(&self, index: u8) -> Host {
        Host::join(&self.gateway, index)
    }

    /// The gateway's addresses, IPv4 then IPv6, as the first host sees them.
    pub fn gateway_ips(&self) -> [IpAddr; 2] {
        self.client.gateway_ips()
    }
}

impl Host {
    fn join(gateway: &Space, index: u8) -> Host {
        let space = Space::new();
        let path = space.path();
        gateway.sh(&format!(
            "ip link add gw{index} type veth peer name eth0 netns {path}
             ip addr add 10.90.{index}.1/24 dev gw{index}
             ip addr add fd90:{index:x}::1/64 dev gw{index} nodad
             ip link set gw{index} up"
        ));
        space.sh(&format!(
            "ip addr add 10.90.{index}.2/24 dev eth0
             ip addr add fd90:{index:x}::2/64 dev eth0 nodad
             ip link set eth0 up
             ip route add default via 10.90.{index}.1
             ip -6 route add default via fd90:{index:x}::1"
        ));
        Host { space, index }
    }

    /// This host's addresses, IPv4 then IPv6.
    pub fn ips(&self) -> [IpAddr; 2] {
        self.link_ips(2)
    }

    /// The gateway's addresses on this host's link, IPv4 then IPv6.
    pub fn gateway_ips(&self) -> [IpAddr; 2] {
        self.link_ips(1)
    }

    /// A port of the gateway, as this host sees it; family 0 is IPv4 and 1 is IPv6.
    pub fn gateway(&self, family: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.gateway_ips()[family], port)
    }

    /// This host's IPv4 address.
    pub fn ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 90, self.index, 2)
    }

    /// The gateway's IPv4 address on this host's link.
    pub fn gateway_ipv4(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 90, self.index, 1)
    }

    fn link_ips(&self, last: u8) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd90, u16::from(self.index), 0, 0, 0, 0, 0, u16::from(last));
        [Ipv4Addr::new(10, 90, self.index, last).into(), v6.into()]
    }

    /// Connects by TCP from here.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.space.connect(to, timeout)
    }

    /// True if a TCP connection from here gets its echo in time.
    pub fn tcp_reaches(&self, to: SocketAddr, timeout: Duration) -> bool {
        match self.connect(to, timeout) {
            Ok(mut stream) => echoes(&mut stream, timeout),
            Err(_) => false,
        }
    }

    /// True if a datagram from here gets its echo in time.
    pub fn udp_reaches(&self, to: SocketAddr, timeout: Duration) -> bool {
        udp_echoes(&self.space.udp(to), timeout)
    }
}

impl Space {
    /// A new namespace with `lo` up.
    pub fn new() -> Space {
        let file = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .expect("network namespaces need root: run the tests by `make test`, or as `unshare -Urnm cargo test`");
            File::open("/proc/thread-self/ns/net").expect("a thread sees its own namespace")
        });
        let space = Space(Arc::new(NamespaceFile(file.join().expect("namespace made"))));
        space.sh("ip link set lo up");
        space
    }

    /// A path to the namespace for other processes of this user, while this one runs: for
    /// `ip ... netns PATH` and `nsenter --net=PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.0.as_raw_fd())
    }

    /// A machine behind this one, 192.168.7.2, whose packets go out under this one's address.
    pub fn behind_nat(&self) -> Space {
        let inner = Space::new();
        self.sh(&format!(
            "ip link add in0 type veth peer name eth0 netns {}
             ip addr add 192.168.7.1/24 dev in0
             ip link set in0 up
             echo 1 >/proc/sys/net/ipv4/ip_forward
             nft add table ip nat
             nft add chain ip nat post '{{ type nat hook postrouting priority 100; }}'
             nft add rule ip nat post oifname eth0 masquerade",
            inner.path()
        ));
        inner.sh("ip addr add 192.168.7.2/24 dev eth0
             ip link set eth0 up
             ip route add default via 192.168.7.1");
        inner
    }

    /// Runs `work` in a thread inside the namespace. Sockets that it opens and processes that it
    /// starts belong there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let in_namespace = || {
            setns(&self.0.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            work()
        };
        let outcome = thread::scope(|scope| scope.spawn(in_namespace).join());
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `work` in a thread inside the namespace and leaves it running.
    pub fn thread<T: Send + 'static>(
        &self, work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let space = self.clone();
        thread::spawn(move || {
            setns(&space.0.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            // A thread that never ends must not keep the namespace and its processes.
            drop(space);
            work()
        })
    }

    /// Starts a program inside. It is killed when the returned value is dropped.
    pub fn spawn(&self, command: &mut Command) -> Running {
        let child = self.inside(|| command.spawn());
        Running(child.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Runs a program inside to its end, whatever its exit code.
    pub fn run(&self, command: &mut Command) -> Output {
        self.inside(|| command.output()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs shell commands inside, each of which must succeed. Returns their standard output.
    pub fn sh(&self, line: &str) -> String {
        let output = self.run(Command::new("/bin/sh").args(["-ec", line]));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` ended with {}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A counter of IPv4 packets from the `Ip:` lines of /proc/net/snmp, for example `InReceives`.
    pub fn ip_counter(&self, name: &str) -> u64 {
        let lines = self.sh("grep '^Ip:' /proc/net/snmp");
        let (names, numbers) = lines.split_once('\n').expect("two lines");
        let index = names.split_whitespace().position(|one| one == name).expect("the counter");
        numbers.split_whitespace().nth(index).expect("its number").parse().expect("a number")
    }

    /// Connects by TCP from inside.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.inside(|| TcpStream::connect_timeout(&to, timeout))
    }

    /// A UDP socket inside, connected to `to`.
    pub fn udp(&self, to: SocketAddr) -> UdpSocket {
        let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
        self.inside(|| {
            let socket = UdpSocket::bind(any).expect("a free port");
            socket.connect(to).expect("a route");
            socket
        })
    }

    /// A TCP server inside on both families, which sends back whatever it gets.
    pub fn tcp_echo(&self, port: u16) -> Echo {
        let listener =
            self.inside(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port"));
        Echo::start(move |state| serve_tcp(&listener, state))
    }

    /// A UDP server inside on both families, which sends back whatever it gets.
    pub fn udp_echo(&self, port: u16) -> Echo {
        let socket =
            self.inside(|| UdpSocket::bind((Ipv6Addr::UNSPECIFIED, port)).expect("a free port"));
        Echo::start(move |state| serve_udp(&socket, state))
    }
}

impl NamespaceFile {
    /// The processes inside. A zombie no longer belongs to a namespace.
    fn processes(&self) -> Vec<Pid> {
        let this = identity(&self.0.metadata().expect("an open file"));
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("procfs").flatten() {
            let Ok(namespace) = fs::metadata(entry.path().join("ns/net")) else { continue };
            let pid = entry.file_name().to_string_lossy().parse();
            if let (Ok(pid), true) = (pid, identity(&namespace) == this) {
                found.push(Pid::from_raw(pid));
            }
        }
        found
    }
}

fn identity(file: &Metadata) -> (u64, u64) {
    (file.dev(), file.ino())
}

impl Drop for NamespaceFile {
    fn drop(&mut self) {
        // Again for processes that were started in the meantime.
        let gone = eventually(LONG, || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            left.is_empty()
        });
        if !gone {
            eprintln!("processes still run in the namespace of a test: {:?}", self.processes());
        }
    }
}

/// A process that is killed and waited for when dropped.
pub struct Running(pub Child);

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.0.id(), signal);
    }

    /// Waits until it ends by itself; none if it does not end in time.
    pub fn wait(&mut self, timeout: Duration) -> Option<std::process::ExitStatus> {
        let mut ended = None;
        eventually(timeout, || {
            ended = self.0.try_wait().expect("our own child");
            ended.is_some()
        });
        ended
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A server that runs until dropped.
pub struct Echo {
    state: Arc<EchoState>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct EchoState {
    stop: AtomicBool,
    requests: AtomicUsize,
    peers: Mutex<Vec<SocketAddr>>,
}

impl Echo {
    fn start(serve: impl FnOnce(&Arc<EchoState>) + Send + 'static) -> Echo {
        let state = Arc::new(EchoState::default());
        let shared = Arc::clone(&state);
        Echo { state, thread: Some(thread::spawn(move || serve(&shared))) }
    }

    /// The number of connections that were accepted, or of datagrams that were received.
    pub fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }

    /// The sources of the requests; IPv4 addresses are not mapped.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.state.peers.lock().expect("no panic in the server").clone()
    }
}

impl EchoState {
    fn note(&self, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.peers.lock().expect("no panic in the server").push(peer);
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.state.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve_tcp(listener: &TcpListener, state: &Arc<EchoState>) {
    listener.set_nonblocking(true).expect("a socket");
    while !state.stopped() {
        match listener.accept() {
            Ok((stream, peer)) => {
                state.note(peer);
                thread::spawn(move || echo_stream(stream));
            }
            Err(_) => wait_readable(listener),
        }
    }
}

fn echo_stream(mut stream: TcpStream) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..read]).is_err() {
            return;
        }
    }
}

fn serve_udp(socket: &UdpSocket, state: &Arc<EchoState>) {
    socket.set_nonblocking(true).expect("a socket");
    let mut buffer = [0; 65536];
    while !state.stopped() {
        match socket.recv_from(&mut buffer) {
            Ok((read, peer)) => {
                state.note(peer);
                let _ = socket.send_to(&buffer[..read], peer);
            }
            Err(_) => wait_readable(socket),
        }
    }
}

/// Waits until there is something to read, but not for long, so that a stop is noticed.
fn wait_readable(socket: &impl std::os::fd::AsFd) {
    let mut fds = [nix::poll::PollFd::new(socket.as_fd(), nix::poll::PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, 20u16);
}

/// True if the bytes that this writes come back in time.
pub fn echoes(stream: &mut TcpStream, timeout: Duration) -> bool {
    let mut back = [0; 4];
    stream.set_read_timeout(Some(timeout)).expect("a timeout");
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

/// True if the datagram that this sends comes back in time.
pub fn udp_echoes(socket: &UdpSocket, timeout: Duration) -> bool {
    let mut back = [0; 16];
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    socket.send(b"ping").is_ok() && matches!(socket.recv(&mut back), Ok(4))
}

/// Polls `happened` until it is true, at most for `timeout`. Returns false if it never was.
pub fn eventually(timeout: Duration, mut happened: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + timeout;
    loop {
        if happened() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Waits until `happened` is true. Panics with `what` if that takes too long.
#[track_caller]
pub fn until(what: &str, happened: impl FnMut() -> bool) {
    assert!(eventually(2 * LONG, happened), "timed out: {what}");
}

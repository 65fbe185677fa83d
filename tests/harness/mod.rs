//! A network of its own for each test: a gateway and hosts in anonymous network namespaces, joined
//! by veth pairs. What is tried in it is left to the tests.
//!
//! The namespaces have no name: they live as long as a descriptor or a process in them, and what
//! still runs in one is killed when the test drops it. So nothing is left behind however a test
//! ends, short of SIGKILL. Host `i` has 10.90.i.2 and fd90:i::2, the gateway 10.90.i.1 and
//! fd90:i::1 on its interface `gw<i>`.

#![allow(unreachable_pub)]

pub mod gate;
pub mod guarded;
pub mod raw;

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

/// Long enough for anything that will happen on a busy machine.
pub const LONG: Duration = Duration::from_secs(10);
/// How long silence is listened to before it counts as silence.
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
pub struct Space(Arc<Held>);

/// The namespace itself. Whatever runs in it is killed with the last of its clones: a daemon in the
/// background, a runner that outlives its daemon, a listener that a test has stopped.
struct Held(File);

impl Net {
    /// A gateway with one host. Panics with the remedy if this process may not make namespaces.
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
        let (outer, inner) = (format!("gw{index}"), space.path());
        gateway.sh(&format!("ip link add {outer} type veth peer name eth0 netns {inner}"));
        gateway.sh(&format!(
            "ip addr add 10.90.{index}.1/24 dev {outer} && ip addr add fd90:{index:x}::1/64 dev {outer} nodad && ip link set {outer} up"
        ));
        space.sh(&format!(
            "ip addr add 10.90.{index}.2/24 dev eth0 && ip addr add fd90:{index:x}::2/64 dev eth0 nodad && ip link set eth0 up && \
             ip route add default via 10.90.{index}.1 && ip -6 route add default via fd90:{index:x}::1"
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

    fn link_ips(&self, last: u8) -> [IpAddr; 2] {
        let v6 = Ipv6Addr::new(0xfd90, u16::from(self.index), 0, 0, 0, 0, 0, u16::from(last));
        [Ipv4Addr::new(10, 90, self.index, last).into(), v6.into()]
    }

    /// A TCP connection from here, or why there is none in time.
    pub fn connect(&self, to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
        self.space.connect(to, timeout)
    }

    /// Whether a TCP connection from here gets its echo.
    pub fn tcp_reaches(&self, to: SocketAddr, timeout: Duration) -> bool {
        self.connect(to, timeout).is_ok_and(|mut stream| echoes(&mut stream, timeout))
    }

    /// Whether a datagram from here gets its echo.
    pub fn udp_reaches(&self, to: SocketAddr, timeout: Duration) -> bool {
        let socket = self.space.udp(to);
        udp_echoes(&socket, timeout)
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
        let space = Space(Arc::new(Held(file.join().expect("namespace made"))));
        space.sh("ip link set lo up");
        space
    }

    /// A path by which any process of this user reaches the namespace while this one runs: for `ip
    /// ... netns PATH`, `nsenter --net=PATH`.
    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.0.as_raw_fd())
    }

    /// Runs `work` in a thread inside the namespace: sockets it opens and processes it starts
    /// belong there.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let outcome = thread::scope(|scope| {
            scope
                .spawn(|| {
                    setns(&self.0.0, CloneFlags::CLONE_NEWNET)
                        .expect("the namespace can be entered");
                    work()
                })
                .join()
        });
        outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Starts `work` in a thread inside the namespace and leaves it running.
    pub fn thread<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        let space = self.clone();
        thread::spawn(move || {
            setns(&space.0.0, CloneFlags::CLONE_NEWNET).expect("the namespace can be entered");
            // A thread that never ends must not keep processes alive.
            drop(space);
            work()
        })
    }

    /// Starts a program inside; it dies with the returned guard.
    pub fn spawn(&self, command: &mut Command) -> Running {
        Running(
            self.inside(|| command.spawn()).unwrap_or_else(|error| panic!("{command:?}: {error}")),
        )
    }

    /// Runs a program inside to its end, whatever its exit code.
    pub fn run(&self, command: &mut Command) -> Output {
        self.inside(|| command.output()).unwrap_or_else(|error| panic!("{command:?}: {error}"))
    }

    /// Runs a shell line inside, which must succeed; gives its standard output.
    pub fn sh(&self, line: &str) -> String {
        let output = self.run(Command::new("/bin/sh").args(["-ec", line]));
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{line}` ended with {}: {errors}", output.status);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A TCP connection from inside, or why there is none in time.
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

impl Held {
    /// The processes in it. A zombie is in no namespace any more.
    fn processes(&self) -> Vec<Pid> {
        let identity = |data: Metadata| (data.dev(), data.ino());
        let this = self.0.metadata().map(identity).expect("an open file");
        let inside = |pid: &i32| {
            fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|data| identity(data) == this)
        };
        let all = fs::read_dir("/proc").expect("procfs").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(inside);
        pids.map(Pid::from_raw).collect()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Once more for what was started meanwhile.
        let gone = eventually(LONG, || {
            let left = self.processes();
            for pid in &left {
                let _ = kill(*pid, Signal::SIGKILL);
            }
            left.is_empty()
        });
        if !gone {
            eprintln!("still in the namespace of a test: {:?}", self.processes());
        }
    }
}

/// A process that is killed and waited for when dropped.
pub struct Running(pub Child);

impl Running {
    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.0.id()).expect("a pid");
        kill(Pid::from_raw(pid), signal).expect("our own child");
    }

    /// Waits until it has ended by itself.
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
    heard: AtomicUsize,
    peers: Mutex<Vec<SocketAddr>>,
}

impl Echo {
    fn start(serve: impl FnOnce(&Arc<EchoState>) + Send + 'static) -> Echo {
        let state = Arc::new(EchoState::default());
        let theirs = Arc::clone(&state);
        Echo { state, thread: Some(thread::spawn(move || serve(&theirs))) }
    }

    /// How many connections were accepted, or datagrams received.
    pub fn heard(&self) -> usize {
        self.state.heard.load(Ordering::SeqCst)
    }

    /// Who they came from, IPv4 in canonical form.
    pub fn peers(&self) -> Vec<SocketAddr> {
        self.state.peers.lock().expect("no panic in the server").clone()
    }
}

impl EchoState {
    fn note(&self, peer: SocketAddr) {
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        self.peers.lock().expect("no panic in the server").push(peer);
        self.heard.fetch_add(1, Ordering::SeqCst);
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

/// Returns when there is something to read, or soon anyway so that a stop is noticed.
fn wait_readable(socket: &impl std::os::fd::AsFd) {
    let mut fds = [nix::poll::PollFd::new(socket.as_fd(), nix::poll::PollFlags::POLLIN)];
    let _ = nix::poll::poll(&mut fds, 20u16);
}

/// Whether what is written comes back in time.
pub fn echoes(stream: &mut TcpStream, timeout: Duration) -> bool {
    let mut back = [0; 4];
    stream.set_read_timeout(Some(timeout)).expect("a timeout");
    stream.write_all(b"ping").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"ping"
}

/// Whether a datagram comes back in time.
pub fn udp_echoes(socket: &UdpSocket, timeout: Duration) -> bool {
    let mut back = [0; 16];
    socket.set_read_timeout(Some(timeout)).expect("a timeout");
    socket.send(b"ping").is_ok() && matches!(socket.recv(&mut back), Ok(4))
}

/// Asks again and again until `happened`, at most for `timeout`; says whether it did.
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

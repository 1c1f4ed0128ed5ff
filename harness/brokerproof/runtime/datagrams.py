"""The measuring of peer links: one perl program that sends datagrams from every node to every other.

A datagram socket belongs for ever to the namespace it was made in. So one process enters the namespaces one after the
other, makes a bound socket in each, and only then sends: nothing is sent to who is not listening yet.

It runs in the side container, whose perl has no Time::HiRes: the clock is asked by system call.
Arguments: rounds, octets of a datagram, seconds to wait for what is late, then name, process id and address of each node.
It prints ``from SOURCE DESTINATION ARRIVED SECONDS``: how many arrived, and how long from the first of them to the last.
"""

from __future__ import annotations

PORT = 45997

# setns(2): 308 on x86_64, 268 on aarch64; clock_gettime(2): 228 and 113, clock 1 is the monotonic one.
PROGRAM = """
use Socket; use POSIX (); use Fcntl;
my ($setns, $clock) = (POSIX::uname())[4] eq "aarch64" ? (268, 113) : (308, 228);
sub now { my $at = "\\0" x 16; syscall($clock, 1, $at); my ($s, $ns) = unpack("qq", $at); return $s + $ns / 1e9 }
my ($rounds, $octets, $patience) = splice(@ARGV, 0, 3);
my (@nodes, %arrived, %first, %last);
while (@ARGV) {
    my ($name, $pid, $address) = splice(@ARGV, 0, 3);
    open(my $ns, "<", "/proc/$pid/ns/net") or next;
    syscall($setns, fileno($ns), 0x40000000) == 0 or die "setns to $name: $!";
    socket(my $socket, PF_INET, SOCK_DGRAM, 0) or die "socket of $name: $!";
    bind($socket, sockaddr_in(PORT, INADDR_ANY)) or die "bind of $name: $!";
    fcntl($socket, F_SETFL, O_NONBLOCK);
    push @nodes, [$name, $socket, $address];
}
my $all = $rounds * @nodes * (@nodes - 1);
my $seen = 0;
sub take {
    my $bits = "";
    vec($bits, fileno($_->[1]), 1) = 1 for @nodes;
    return 0 unless select($bits, undef, undef, $_[0]) > 0;
    for my $to (@nodes) {
        next unless vec($bits, fileno($to->[1]), 1);
        while (defined recv($to->[1], my $got, 2048, 0)) {
            my ($from) = split / /, $got;
            my $pair = "$from $to->[0]";
            $first{$pair} //= now();
            $last{$pair} = now();
            $arrived{$pair}++;
            $seen++;
        }
    }
    return 1;
}
for my $round (1 .. $rounds) {
    for my $from (@nodes) {
        for my $to (@nodes) {
            next if $from == $to;
            my $what = "$from->[0] ";
            $what .= "." x ($octets - length $what) if $octets > length $what;
            send($from->[1], $what, 0, sockaddr_in(PORT, inet_aton($to->[2])));
        }
    }
    take(0) if $octets < 100;
}
# What is late, for as long as it takes; after a while without anything new nothing more will come.
my $until = now() + $patience;
while ($seen < $all and now() < $until) { take(0.02) }
for my $from (@nodes) {
    for my $to (@nodes) {
        next if $from == $to;
        my $pair = "$from->[0] $to->[0]";
        printf "from %s %d %.6f\\n", $pair, $arrived{$pair} // 0, ($last{$pair} // 0) - ($first{$pair} // 0);
    }
}
""".replace("PORT", str(PORT))

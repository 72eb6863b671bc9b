# What pods serve: who it is and whom it sees, then each line again.
use IO::Socket::INET;
$SIG{CHLD} = "IGNORE";
$| = 1;
my $server = IO::Socket::INET->new(LocalPort => 8080, Listen => 128, ReuseAddr => 1) or die "listen: $!";
while (1) {
    # Interrupted where a child ends.
    my $client = $server->accept or next;
    if (!fork) {
        close $server;
        $client->autoflush(1);
        print $client "$ENV{HOSTNAME} ", $client->peerhost, "\n";
        while (my $line = <$client>) { print $client $line; }
        exit 0;
    }
    close $client;
}

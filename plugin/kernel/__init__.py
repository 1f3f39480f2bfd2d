"""The data plane of one node: desired, observed, planned, applied.

reconciler  the loop that makes the kernel agree with the state
parts       what the kernel should hold, by part
vanished    endpoints whose links are gone
settling    who waits until it is carried out
monitor     hears of changes by others
writer      the one place the kernel is written, from one thread
links       links and addresses
switches    settings of the node and of our links (sysctl)
tunnel      the tunnel's addresses and routes
loopback    the stable upstreams' addresses
firewall    our tables of nftables
foreign     accepts in chains that are not ours
commands    programs that change the kernel for us, and do not outlive us
flows       connections that lead where they no longer belong
conntrack   how the kernel is told to forget them
node        what there is beside us: addresses, uplinks, other routes
dataplane   what a network needs, and the steps between two such descriptions (pure)
ruleset     sets and maps, and the transactions of nft (pure)
chains      what is checked where (pure)
overlay     what the cluster adds (pure)
leading     where a stable upstream leads (pure)
"""

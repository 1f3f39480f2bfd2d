"""What Docker asks: its remote driver protocols, and what each call means.

server    HTTP on unix sockets: decodes, dispatches, answers
driver    networks, endpoints, published ports
ipam      pools and addresses
ports     who has which port of the node
options   from what Docker says to the values we keep (pure)
protocol  the wire format (pure)
"""

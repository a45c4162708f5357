"""`mpt bisect`: the layers that must stay in float32 for a run to succeed."""

"""The session protocol on the wire, and fingerprints of vocabularies."""

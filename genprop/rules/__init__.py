"""Rules of credit assignment."""

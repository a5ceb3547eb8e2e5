"""The public sets that papers name: what each should hold, where it comes from, what is wrong."""

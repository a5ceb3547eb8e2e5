"""What runs on the device: opening a bundle, classifying images, timing it. No torch below."""

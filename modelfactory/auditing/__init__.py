"""What is wrong with the initial values of any nn.Module."""
